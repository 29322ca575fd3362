"""Metrics and traces of a job, seen from outside, through all processes."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soul_cli.client import SoulClient
from soul_cli.embedded.ports import find_free_port
from soul_core import tracing
from soul_store.tables import Job
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.fixtures.trace_receiver import TraceReceiver, receiving_traces
from tests.worker.conftest import Fleet

SPEC: dict[str, Any] = {"training": {"steps": 2}, "evaluation": {"max_new_tokens": 4}, "attacks": []}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceReceiver]:
    with receiving_traces() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield received


def wait_until(ready: Callable[[], bool], *, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    return ready()


def read_metrics(port: int) -> dict[str, float]:
    """Return the samples that a process serves, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_one_job_is_one_trace_and_each_process_counts_its_part(
    receiver: TraceReceiver,
    fleet: Fleet,
    client: SoulClient,
    taught_model_dir: Path,
    tmp_path: Path,
    session: Any,
) -> None:
    countries, ports = list(COUNTRIES), {}
    for name, start in (("maintenance", fleet.start_maintenance), ("worker", fleet.start_worker)):
        ports[name] = find_free_port()
        fleet.environment["SOUL_METRICS_PORT"] = str(ports[name])
        start()
    model = client.add_model("local", str(taught_model_dir), name="tiny")
    forget = client.add_dataset(write_rows(tmp_path / "forget.jsonl", countries[:2]))
    retain = client.add_dataset(write_rows(tmp_path / "retain.jsonl", countries[2:]))

    job = client.submit(model_id=model.id, datasets={"forget": forget.id, "retain": retain.id}, spec=SPEC)
    finished = client.wait(job.id)

    assert finished.status == "succeeded", (finished.status_reason, fleet.log("worker"))
    parent = tracing.make_trace_parent(session.get_one(Job, job.id).request_id)
    assert parent is not None
    _, trace_id, request_span_id, _ = parent.split("-")
    assert wait_until(lambda: {"run job", "POST /v1/jobs"} <= {span.name for span in receiver.list_trace(trace_id)})
    spans = {span.name: span for span in receiver.list_trace(trace_id)}
    assert {span.service for span in spans.values()} == {"soul-api", "soul-maintenance", "soul-worker", "soul-engine"}
    assert spans["POST /v1/jobs"].span_id == request_span_id
    assert spans["send message"].parent_id == spans["run job"].parent_id == request_span_id
    assert spans["run engine"].parent_id == spans["run job"].span_id
    assert spans["engine"].parent_id == spans["run engine"].span_id
    assert spans["phase unlearn"].parent_id == spans["engine"].span_id

    worker, maintenance = (read_metrics(ports[name]) for name in ("worker", "maintenance"))
    assert worker['soul_attempts_ended_total{code="",status="succeeded"}'] == 1
    assert worker["soul_engine_seconds_total"] > 0
    assert maintenance["soul_outbox_messages_sent_total"] == 1
    assert maintenance['soul_jobs{status="succeeded"}'] + maintenance['soul_jobs{status="running"}'] == 1

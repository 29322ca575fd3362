"""The events of a job, listed and streamed, and its curves."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, update
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_leases
from soul_store.job_leases import JobLease
from soul_store.tables import ApiKey
from tests.api.conftest import ApiClient, Finish


def test_events_are_listed_in_order_and_after_a_given_one(admin: ApiClient, finish: Finish) -> None:
    job_id = finish("passed")

    events = admin("GET", f"/v1/jobs/{job_id}/events").json()["data"]
    rest = admin("GET", f"/v1/jobs/{job_id}/events?after=2").json()["data"]

    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [event["kind"] for event in events] == ["status", "status", "phase", "status"]
    assert rest == events[2:]


def read_stream(caller: ApiClient, job_id: str, **headers: str) -> list[tuple[int, dict[str, Any]]]:
    answer = caller("GET", f"/v1/jobs/{job_id}/events/stream", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    messages = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        for block in answer.text.strip().split("\n\n")
    ]
    return [(int(message["id"]), json.loads(message["data"])) for message in messages if "id" in message]


def test_the_stream_has_every_event_and_ends_with_the_job(admin: ApiClient, finish: Finish) -> None:
    events = read_stream(admin, finish("passed"))

    assert [seq for seq, _ in events] == [1, 2, 3, 4]
    assert events[-1][1]["data"]["status"] == "succeeded"


def test_an_interrupted_stream_resumes_after_the_last_event(admin: ApiClient, finish: Finish) -> None:
    events = read_stream(admin, finish("passed"), **{"Last-Event-ID": "3"})

    assert [seq for seq, _ in events] == [4]


def test_the_stream_sends_progress_that_is_not_stored(
    admin: ApiClient, job_body: dict[str, Any], database: Engine
) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    with Session(database) as session, session.begin():
        job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
        assert job is not None
        events = [
            Event(kind="phase", data={"phase": "unlearn"}),
            Event(kind="metrics", data={"step": 3, "loss": 1.5}),
            Event(
                kind="progress", data={"phase": "unlearn", "done": 3, "total": 9, "unit": "step", "eta_seconds": 6.0}
            ),
        ]
        job_leases.record_events(session, JobLease(job_id, 1), events)

    def end() -> None:
        with Session(database) as session, session.begin():
            job_leases.cancel(session, JobLease(job_id, 1), usage={})

    later = threading.Timer(1.0, end)
    later.start()
    answer = admin("GET", f"/v1/jobs/{job_id}/events/stream")
    later.join()

    blocks = [block for block in answer.text.split("\n\n") if "event: progress" in block or "event: metrics" in block]
    data = [
        json.loads(line.removeprefix("data: "))
        for block in blocks
        for line in block.splitlines()
        if line.startswith("data")
    ]
    assert {"step": 3, "loss": 1.5} in [event["data"] for event in data]
    assert any(event["data"].get("eta_seconds") == 6.0 and event["data"]["done"] == 3 for event in data)
    assert not any(line.startswith("id") for block in blocks for line in block.splitlines())
    stored = {event["kind"] for event in admin("GET", f"/v1/jobs/{job_id}/events").json()["data"]}
    assert stored == {"status", "phase"}


def test_the_curves_have_one_value_per_step(admin: ApiClient, finish: Finish) -> None:
    metrics = admin("GET", f"/v1/jobs/{finish('passed')}/metrics").json()

    assert metrics == {"steps": [1, 2], "curves": {"loss": [2.0, 1.0], "lr": [None, 0.1]}}


@pytest.fixture
def reader(admin: ApiClient) -> tuple[ApiClient, str]:
    """A client that reads jobs, and the id of its key."""
    key = admin("POST", "/v1/api-keys", json={"name": "reader", "scopes": ["jobs:read"]}).json()
    return ApiClient(admin.http, key["key"]), key["id"]


def revoke(session: Session, key_id: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=func.now()))


def expire(session: Session, key_id: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(expires_at=func.now() - timedelta(seconds=1)))


@pytest.mark.parametrize("end_key", [revoke, expire])
def test_a_stream_ends_with_an_event_when_its_key_ends(
    reader: tuple[ApiClient, str],
    admin: ApiClient,
    job_body: dict[str, Any],
    database: Engine,
    end_key: Callable[[Session, str], None],
) -> None:
    client, key_id = reader
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    def end() -> None:
        with Session(database) as session, session.begin():
            end_key(session, key_id)

    later = threading.Timer(0.5, end)
    later.start()
    response = client("GET", f"/v1/jobs/{job_id}/events/stream")
    later.join()

    last = response.text.strip().split("\n\n")[-1]
    lines = dict(line.split(": ", 1) for line in last.splitlines())
    event = json.loads(lines["data"])
    assert (lines["event"], "id" in lines) == ("closed", False)
    assert (event["kind"], event["seq"]) == ("closed", 0)
    assert event["data"] == {"code": "unauthorized", "message": "this API key was revoked or has expired"}
    assert admin("GET", f"/v1/jobs/{job_id}").json()["status"] == "queued"

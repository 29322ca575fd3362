"""What a job tells and makes, over HTTP."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_leases
from soul_store.blobs import get_blob_store
from soul_store.job_leases import JobLease
from soul_store.tables import AuditEntry
from tests.api.conftest import As, problem

WEIGHTS = b"w" * 3_000_000
FILES = {
    "checkpoint/model.safetensors": WEIGHTS,
    "adapter/adapter_model.safetensors": b"a",
    "logs/unlearned.json": b"{}",
    "report.json": b'{"verdict": "x"}',
    "report.html": b"<h1>r</h1>",
}
Finish = Callable[[str], str]


@pytest.fixture
def finish(admin: As, job_body: dict[str, Any], database: Engine) -> Finish:
    """Run a job to a verdict, without an engine: what a worker would write."""

    def run(verdict: str) -> str:
        job_id: str = admin("POST", "/v1/jobs", json=job_body).json()["id"]
        with Session(database) as session, session.begin():
            job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
            assert job is not None
            told = [
                Event(kind="phase", data={"phase": "unlearn"}),
                Event(kind="metrics", data={"step": 1, "loss": 2.0}),
                Event(kind="metrics", data={"step": 2, "loss": 1.0, "lr": 0.1}),
            ]
            job_leases.record_events(session, JobLease(job_id, job.epoch), told)
            made = []
            for path, content in FILES.items():
                stored = get_blob_store().put_stream(f"jobs/{job_id}/{job.epoch}/{path}", [content])
                made.append(job_leases.NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
            job_leases.succeed(
                session,
                JobLease(job_id, job.epoch),
                verdict=verdict,
                report_blob=f"jobs/{job_id}/{job.epoch}/report.json",
                artifacts=made,
                usage={},
            )
        return job_id

    return run


def artifact(caller: As, job_id: str, path: str) -> str:
    listed = caller("GET", f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return next(f"/v1/artifacts/{made['id']}/content" for made in listed if made["path"] == path)


def test_events_come_in_order_and_from_where_one_left_off(admin: As, finish: Finish) -> None:
    job_id = finish("passed")

    events = admin("GET", f"/v1/jobs/{job_id}/events").json()["data"]
    rest = admin("GET", f"/v1/jobs/{job_id}/events?after=2").json()["data"]

    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [event["kind"] for event in events] == ["status", "status", "phase", "status"]
    assert rest == events[2:]


def read_stream(caller: As, job_id: str, **headers: str) -> list[tuple[int, dict[str, Any]]]:
    answer = caller("GET", f"/v1/jobs/{job_id}/events/stream", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    messages = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        for block in answer.text.strip().split("\n\n")
    ]
    return [(int(message["id"]), json.loads(message["data"])) for message in messages if "id" in message]


def test_the_stream_tells_everything_and_ends_with_the_job(admin: As, finish: Finish) -> None:
    told = read_stream(admin, finish("passed"))

    assert [seq for seq, _ in told] == [1, 2, 3, 4]
    assert told[-1][1]["data"]["status"] == "succeeded"


def test_a_cut_stream_goes_on_behind_the_last_event(admin: As, finish: Finish) -> None:
    told = read_stream(admin, finish("passed"), **{"Last-Event-ID": "3"})

    assert [seq for seq, _ in told] == [4]


def test_the_curves_have_one_value_a_step(admin: As, finish: Finish) -> None:
    found = admin("GET", f"/v1/jobs/{finish('passed')}/metrics").json()

    assert found == {"steps": [1, 2], "curves": {"loss": [2.0, 1.0], "lr": [None, 0.1]}}


def test_the_report_is_json_or_a_page(admin: As, finish: Finish) -> None:
    path = f"/v1/jobs/{finish('passed')}/report"

    assert admin("GET", path).json() == {"verdict": "x"}
    page = admin("GET", path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.text == "<h1>r</h1>"
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_report_comes_as_pdf_for_those_who_ask(admin: As, finish: Finish) -> None:
    answer = admin("GET", f"/v1/jobs/{finish('passed')}/report", headers={"Accept": "application/pdf"})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.content.startswith(b"%PDF-")


def test_a_server_that_cannot_make_pdfs_says_what_it_lacks(
    admin: As, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)  # the fault: not installed

    answer = admin("GET", f"/v1/jobs/{finish('passed')}/report", headers={"Accept": "application/pdf"})

    assert "weasyprint" in problem(answer, 501, "pdf_unavailable")["detail"]


def test_before_its_end_a_job_has_no_report_and_no_files(admin: As, job_body: dict[str, Any]) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"

    problem(admin("GET", f"{path}/report"), 409, "no_report")
    problem(admin("GET", f"{path}/artifacts"), 409, "no_artifacts")


def test_a_file_comes_whole_with_its_digest(admin: As, finish: Finish) -> None:
    answer = admin("GET", artifact(admin, finish("passed"), "checkpoint/model.safetensors"))

    sha256 = hashlib.sha256(WEIGHTS)
    assert answer.content == WEIGHTS
    assert answer.headers["etag"] == f'"{sha256.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert 'filename="model.safetensors"' in answer.headers["content-disposition"]


def test_head_tells_size_and_digest_without_the_file(admin: As, finish: Finish) -> None:
    answer = admin("HEAD", artifact(admin, finish("passed"), "checkpoint/model.safetensors"))

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_download_goes_on_where_it_broke(admin: As, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")
    etag = admin("HEAD", path).headers["etag"]

    tail = admin("GET", path, headers={"Range": "bytes=2999990-", "If-Range": etag})
    changed = admin("GET", path, headers={"Range": "bytes=2999990-", "If-Range": '"another"'})

    assert (tail.status_code, tail.content) == (206, WEIGHTS[-10:])
    assert tail.headers["content-range"] == "bytes 2999990-2999999/3000000"
    assert (changed.status_code, len(changed.content)) == (200, len(WEIGHTS))


def test_a_range_that_lies_nowhere_is_a_problem(admin: As, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")

    beyond = admin("GET", path, headers={"Range": "bytes=9000000-"})
    changed = admin("GET", path, headers={"Range": "bytes=9000000-", "If-Range": '"another"'})

    problem(beyond, 416, "no_such_range")
    assert beyond.headers["content-range"] == "bytes */3000000"
    assert (changed.status_code, len(changed.content)) == (200, len(WEIGHTS))


@pytest.mark.parametrize("wanted", ["bytes=oops", "items=0-1", "bytes=9-3", "bytes=-"])
def test_a_range_that_is_none_is_passed_over(admin: As, finish: Finish, wanted: str) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")

    answer = admin("GET", path, headers={"Range": wanted})

    assert (answer.status_code, answer.content) == (200, WEIGHTS)


def test_a_file_one_has_is_not_sent_again(admin: As, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "report.json")
    etag = admin("HEAD", path).headers["etag"]

    for known in (etag, f"W/{etag}", f'"another", {etag}', "*"):
        assert admin("GET", path, headers={"If-None-Match": known}).status_code == 304
    assert admin("GET", path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_another_projects_file_is_not_there(admin: As, stranger: As, finish: Finish) -> None:
    problem(stranger("GET", artifact(admin, finish("passed"), "report.json")), 404, "not_found")


@pytest.mark.parametrize(
    ("verdict", "path"),
    [
        ("failed", "checkpoint/model.safetensors"),
        ("inconclusive", "checkpoint/model.safetensors"),
        ("failed", "adapter/adapter_model.safetensors"),
    ],
)
def test_weights_that_did_not_pass_need_a_scope_and_leave_an_audit_entry(
    verdict: str,
    path: str,
    http: TestClient,
    admin: As,
    make_key: Callable[..., str],
    finish: Finish,
    session: Session,
) -> None:
    job_id = finish(verdict)
    weights, report, log = (artifact(admin, job_id, name) for name in (path, "report.json", "logs/unlearned.json"))
    plain = As(http, make_key("default", "jobs:read", "models:download"))
    trusted = As(http, make_key("default", "jobs:read", "models:download_unverified"))

    problem(plain("GET", weights), 403, "unverified_model")
    assert plain("GET", report).status_code == plain("GET", log).status_code == 200
    assert trusted("GET", weights).status_code == 200

    entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "artifact.download_unverified")).one()
    assert entry.data["verdict"] == verdict


def test_the_checkpoint_of_a_passed_job_is_a_model_to_go_on_with(admin: As, finish: Finish) -> None:
    job_id = finish("passed")

    made = admin("POST", "/v1/models", json={"source": "job", "location": job_id})

    assert made.status_code == 201, made.text
    assert made.json()["parent_job_id"] == job_id
    assert made.json()["location"] == f"jobs/{job_id}/1/checkpoint"


def test_a_checkpoint_with_a_chat_template_of_its_own_has_no_facts_of_the_bases(
    admin: As, finish: Finish, job_body: dict[str, Any]
) -> None:
    kept = admin("POST", "/v1/models", json={"source": "job", "location": finish("passed")}).json()["facts"]
    job_body["spec"]["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

    own = admin("POST", "/v1/models", json={"source": "job", "location": finish("passed")}).json()["facts"]

    assert "chat" in kept
    assert own == {name: value for name, value in kept.items() if name != "chat"}


def test_the_stream_tells_where_a_running_job_is_and_does_not_keep_it(
    admin: As, job_body: dict[str, Any], database: Engine
) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    with Session(database) as session, session.begin():
        job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
        assert job is not None
        told = [
            Event(kind="phase", data={"phase": "unlearn"}),
            Event(kind="metrics", data={"step": 3, "loss": 1.5}),
            Event(
                kind="progress", data={"phase": "unlearn", "done": 3, "total": 9, "unit": "step", "eta_seconds": 6.0}
            ),
        ]
        job_leases.record_events(session, JobLease(job_id, 1), told)

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
    assert {"step": 3, "loss": 1.5} in [each["data"] for each in data]
    assert any(each["data"].get("eta_seconds") == 6.0 and each["data"]["done"] == 3 for each in data)
    assert not any(line.startswith("id") for block in blocks for line in block.splitlines())
    kept = {event["kind"] for event in admin("GET", f"/v1/jobs/{job_id}/events").json()["data"]}
    assert kept == {"status", "phase"}

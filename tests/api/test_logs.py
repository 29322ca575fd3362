"""The log of a job over HTTP, and the ids that connect it with the server's own log."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.main import create_app
from soul_store import job_leases, job_logs
from soul_store.job_leases import JobLease
from soul_store.job_logs import LogLine
from soul_store.tables import Job
from tests.api.conftest import ApiClient

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def read_lines(caller: ApiClient, job_id: str, **params: int) -> list[dict[str, Any]]:
    response = caller("GET", f"/v1/jobs/{job_id}/logs", params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/jsonl")
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
def job_id(admin: ApiClient, job_body: dict[str, Any], database: Engine) -> str:
    """A running job: its first attempt wrote 9 lines of which 3 to 7 were left out, its second one so far."""
    job_id: str = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    def write(*numbers: int) -> JobLease:
        with Session(database) as session, session.begin():
            job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
            assert job is not None
            lease = JobLease(job_id, job.epoch)
            lines = [
                LogLine(seq, job.epoch, AT, "info", f"line {seq}", {"source": "engine", "argv": ["--x"]})
                for seq in numbers
            ]
            job_logs.append(session, lease, lines, left_out=range(3, 8))
            return lease

    lease = write(1, 2, 3, 7, 8, 9)
    with Session(database) as session, session.begin():
        job_leases.release(session, lease, usage={})
    write(10)
    return job_id


def test_a_log_is_one_json_object_per_line_while_the_job_runs(admin: ApiClient, job_id: str) -> None:
    lines = read_lines(admin, job_id)

    assert lines[0] == {
        "seq": 1,
        "attempt": 1,
        "at": "2026-01-02T03:04:05Z",
        "level": "info",
        "message": "line 1",
        "source": "engine",
        "argv": ["--x"],
    }
    assert [line["seq"] for line in lines] == [1, 2, 7, 8, 9, 10]
    assert [line["attempt"] for line in lines] == [1, 1, 1, 1, 1, 2]


def test_lines_that_were_left_out_are_counted(admin: ApiClient, job_id: str) -> None:
    gap = read_lines(admin, job_id)[2]

    assert gap["message"] == "5 lines were left out: an attempt's log keeps its first and its last lines"
    assert gap["source"] == "service"


@pytest.mark.parametrize(
    ("params", "numbers"),
    [
        ({"attempt": 2}, [10]),
        ({"tail": 2}, [9, 10]),
        ({"tail": 1, "attempt": 1}, [9]),
        ({"limit": 2}, [1, 2]),
        ({"after": 2, "limit": 1}, [7, 8]),
        ({"after": 7}, [8, 9, 10]),
        ({"after": 10}, []),
    ],
    ids=str,
)
def test_a_part_of_a_log_is_chosen_by_attempt_tail_and_page(
    admin: ApiClient, job_id: str, params: dict[str, int], numbers: list[int]
) -> None:
    assert [line["seq"] for line in read_lines(admin, job_id, **params)] == numbers


def test_a_job_that_never_ran_has_an_empty_log(admin: ApiClient, job_body: dict[str, Any]) -> None:
    job = admin("POST", "/v1/jobs", json=job_body).json()

    assert read_lines(admin, job["id"]) == []
    assert job["links"]["logs"] == f"/v1/jobs/{job['id']}/logs"


def test_an_attempt_that_does_not_exist_is_not_found(admin: ApiClient, job_id: str) -> None:
    problem = admin("GET", f"/v1/jobs/{job_id}/logs?attempt=3").json()

    assert (problem["status"], problem["code"]) == (404, "not_found")
    assert problem["detail"] == f"there is no attempt 3 of job {job_id}, which had 2"


def test_a_log_needs_the_scope_and_the_project(admin: ApiClient, job_id: str, make_key: Callable[..., str]) -> None:
    other_tenant = ApiClient(admin.http, make_key("another project", "*"))
    writer = ApiClient(admin.http, make_key("default", "jobs:write"))

    assert other_tenant("GET", f"/v1/jobs/{job_id}/logs").status_code == 404
    assert writer("GET", f"/v1/jobs/{job_id}/logs").json()["code"] == "missing_scope"


def test_a_job_and_the_servers_log_have_the_id_of_the_request(
    admin: ApiClient,
    job_body: dict[str, Any],
    database: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOUL_LOG_FORMAT", "json")
    create_app()

    response = admin("POST", "/v1/jobs", json=job_body)

    request_id = response.headers["x-request-id"]
    with Session(database) as session:
        assert session.get_one(Job, response.json()["id"]).request_id == request_id
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (record,) = [record for record in records if record.get("path") == "/v1/jobs"]
    assert (record["logger"], record["message"], record["request_id"], record["status"]) == (
        "api.access",
        "request served",
        request_id,
        202,
    )


def test_the_server_logs_at_the_level_of_the_settings(
    admin: ApiClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOUL_LOG_LEVEL", "WARNING")
    create_app()

    admin("GET", "/v1/jobs")

    assert capsys.readouterr().err == ""

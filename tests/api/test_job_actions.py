"""Pause, resume, retry, priorities, limits and metadata of jobs over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from soul_store import job_leases, workers
from soul_store.job_state_machine import requeue
from soul_store.placement import WorkerDevice
from soul_store.tables import Job
from tests.api.conftest import ApiClient, problem

Body = dict[str, Any]
Submit = Callable[..., Body]
GIB = 1 << 30


@pytest.fixture
def submit(admin: ApiClient, job_body: Body) -> Submit:
    """Submit a job; keyword arguments replace fields of its body."""

    def send(**fields: Any) -> Body:
        answer = admin("POST", "/v1/jobs", json={**job_body, **fields})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    return send


@pytest.fixture
def run(database: Engine) -> Callable[[str], None]:
    def claim(job_id: str) -> None:
        with Session(database) as session, session.begin():
            assert job_leases.claim(session, job_id, worker="w", lease_seconds=60) is not None

    return claim


@pytest.fixture
def register(session: Session) -> Callable[..., None]:
    """Register a worker with the device given."""

    def record(name: str = "w", **device: Any) -> None:
        workers.record(session, name=name, device=WorkerDevice(**{"accelerator": "cpu", **device}))
        session.commit()

    return record


def act(client: ApiClient, job: Body, action: str, **options: Any) -> Any:
    return client("POST", f"/v1/jobs/{job['id']}/{action}", **options)


def count_jobs(session: Session) -> int:
    session.rollback()
    return session.scalar(select(func.count()).select_from(Job)) or 0


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def test_a_job_that_waits_is_paused_and_resumed(admin: ApiClient, submit: Submit) -> None:
    job = submit()

    paused = act(admin, job, "pause").json()
    resumed = act(admin, job, "resume").json()

    assert (paused["status"], paused["allowed_actions"]) == ("paused", ["cancel", "resume"])
    assert paused["progress"]["queue_position"] is None
    assert paused["status_reason"]["code"] == "paused"
    assert (resumed["status"], resumed["progress"]["queue_position"]) == ("queued", 0)


def test_the_pause_of_a_running_job_is_requested_and_can_be_withdrawn(
    admin: ApiClient, submit: Submit, run: Callable[[str], None]
) -> None:
    job = submit()
    run(job["id"])

    requested = act(admin, job, "pause").json()
    withdrawn = act(admin, job, "resume").json()

    assert (requested["status"], requested["requested_action"]) == ("running", "pause")
    assert "resume" in requested["allowed_actions"]
    assert (withdrawn["status"], withdrawn["requested_action"]) == ("running", None)


@pytest.mark.parametrize("action", ["resume", "retry"])
def test_an_action_that_is_not_allowed_answers_409_with_those_that_are(
    admin: ApiClient, submit: Submit, action: str
) -> None:
    body = problem(act(admin, submit(), action), 409, "not_allowed")

    assert (body["job_status"], body["allowed_actions"]) == ("queued", ["cancel", "pause"])
    assert f"cannot {action} a job that is queued" in body["detail"]


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_the_job_of_another_project_is_not_found(
    admin: ApiClient, other_tenant: ApiClient, submit: Submit, session: Session, action: str
) -> None:
    problem(act(other_tenant, submit(), action), 404, "not_found")

    assert count_jobs(session) == 1


def test_a_retry_is_a_new_job_of_the_same_inputs(admin: ApiClient, submit: Submit, session: Session) -> None:
    limits = {"priority": "high", "deadline": in_an_hour(), "max_gpu_seconds": 60.0, "metadata": {"team": "a"}}
    job = submit(name="n", **limits)
    act(admin, job, "cancel")

    answer = act(admin, job, "retry")

    retry = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{retry['id']}")
    assert (retry["status"], retry["retry_of_job_id"]) == ("queued", job["id"])
    same = ("name", "kind", "model_id", "models", "datasets", "spec_sha256", *limits)
    assert {name: retry[name] for name in same} == {name: job[name] for name in same}
    assert admin("GET", f"/v1/jobs/{job['id']}").json()["status"] == "cancelled", "the old job stays as it ended"


def test_a_retry_is_not_doubled_while_it_is_unfinished(admin: ApiClient, submit: Submit, session: Session) -> None:
    job = submit()
    act(admin, job, "cancel")

    first, second = (act(admin, job, "retry").json() for _ in range(2))
    act(admin, first, "cancel")
    third = act(admin, job, "retry").json()

    assert first["id"] == second["id"] != third["id"]
    assert count_jobs(session) == 3


def test_the_same_idempotency_key_creates_one_retry(admin: ApiClient, submit: Submit, session: Session) -> None:
    job, headers = submit(), {"Idempotency-Key": "once"}
    act(admin, job, "cancel")
    first = act(admin, job, "retry", headers=headers).json()
    act(admin, first, "cancel")

    second = act(admin, job, "retry", headers=headers)

    assert second.json()["id"] == first["id"]
    assert second.headers["idempotent-replayed"] == "true"
    problem(act(admin, first, "retry", headers=headers), 422, "idempotency_key_reused")
    assert count_jobs(session) == 2


def test_a_retry_can_change_priority_and_limits(admin: ApiClient, submit: Submit) -> None:
    job = submit(priority="low", max_gpu_seconds=5, deadline=in_an_hour())
    act(admin, job, "cancel")

    retry = act(admin, job, "retry", json={"priority": "high", "max_gpu_seconds": None}).json()

    assert (retry["priority"], retry["max_gpu_seconds"], retry["deadline"]) == ("high", None, job["deadline"])


def test_a_retry_after_the_deadline_needs_another(admin: ApiClient, submit: Submit, session: Session) -> None:
    job = submit(deadline=in_an_hour())
    act(admin, job, "cancel")
    session.get_one(Job, job["id"]).deadline = datetime.now(UTC) - timedelta(seconds=1)
    session.commit()

    body = problem(act(admin, job, "retry"), 422, "invalid_job")
    retry = act(admin, job, "retry", json={"deadline": None})

    assert body["errors"][0]["pointer"] == "/deadline"
    assert (retry.status_code, retry.json()["deadline"]) == (202, None)


def test_a_retry_names_a_data_set_that_was_deleted(admin: ApiClient, submit: Submit, job_body: Body) -> None:
    job = submit()
    act(admin, job, "cancel")
    admin("DELETE", f"/v1/datasets/{job_body['datasets']['forget']}")

    body = problem(act(admin, job, "retry"), 404, "not_found")

    assert [error["pointer"] for error in body["errors"]] == ["/datasets/forget"]


def test_a_retry_makes_the_retrained_model_again_if_that_failed(
    admin: ApiClient, submit: Submit, job_body: Body, session: Session
) -> None:
    retrained = {"kind": "retrain", "model_id": job_body["model_id"], "training": {"epochs": 2}}
    job = submit(retrained=retrained)
    act(admin, {"id": job["depends_on_job_id"]}, "cancel")  # fails the job that waits for it

    retry = act(admin, job, "retry").json()

    retraining = admin("GET", f"/v1/jobs/{retry['depends_on_job_id']}").json()
    assert retry["depends_on_job_id"] != job["depends_on_job_id"]
    assert (retraining["status"], retraining["spec"]["training"]["epochs"]) == ("queued", 2)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"deadline": "2020-01-01T00:00:00Z"}, "/deadline"),
        ({"deadline": "9999-12-31T23:59:59-14:00"}, "/deadline"),
        ({"deadline": "2126-01-01T00:00:00"}, "/deadline"),
        ({"priority": "urgent"}, "/priority"),
        ({"max_gpu_seconds": 0}, "/max_gpu_seconds"),
        ({"max_gpu_seconds": 1e300}, "/max_gpu_seconds"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, "/metadata"),
        ({"metadata": {"k" * 65: "v"}}, f"/metadata/{'k' * 65}"),
        ({"metadata": {"k[0]": "v"}}, "/metadata/k[0]"),
        ({"metadata": {"k": "v" * 513}}, "/metadata/k"),
        ({"metadata": {"k": 1}}, "/metadata/k"),
    ],
)
def test_limits_and_metadata_out_of_bounds_are_refused_and_located(
    admin: ApiClient, job_body: Body, session: Session, fields: Body, pointer: str
) -> None:
    answer = admin("POST", "/v1/jobs", json={**job_body, **fields})

    assert answer.status_code == 422, answer.text
    assert [error["pointer"].removesuffix("/[key]") for error in answer.json()["errors"]] == [pointer]
    assert count_jobs(session) == 0


def test_jobs_are_filtered_by_metadata(admin: ApiClient, submit: Submit) -> None:
    both, first, _ = submit(metadata={"team": "a", "ticket/no": "ä=1&2"}), submit(metadata={"team": "a"}), submit()

    def find(**params: str) -> list[str]:
        return [job["id"] for job in admin("GET", "/v1/jobs", params=params).json()["data"]]

    assert find(**{"metadata[team]": "a"}) == [first["id"], both["id"]]
    assert find(**{"metadata[team]": "a", "metadata[ticket/no]": "ä=1&2"}) == [both["id"]]
    assert find(**{"metadata[team]": "b"}) == []
    body = problem(admin("GET", "/v1/jobs", params={"metadata[]": "a"}), 422, "invalid_request")
    assert body["errors"][0]["pointer"] == "/query/metadata"


def test_a_job_of_a_higher_priority_has_the_better_position(admin: ApiClient, submit: Submit) -> None:
    submitted = [submit(priority=priority) for priority in ("low", "normal", "high")]

    listed = {job["id"]: job["progress"]["queue_position"] for job in admin("GET", "/v1/jobs").json()["data"]}

    assert [listed[job["id"]] for job in submitted] == [2, 1, 0]


def test_without_a_worker_a_job_says_why_it_waits(
    admin: ApiClient, submit: Submit, register: Callable[..., None]
) -> None:
    job = submit()
    assert (job["status"], job["status_reason"]["code"]) == ("queued", "no_worker")
    assert job["warnings"] == ["no worker is running: the job waits until one starts"]

    register()

    shown = admin("GET", f"/v1/jobs/{job['id']}").json()
    assert (shown["status_reason"], shown["warnings"]) == (None, [])


def test_a_job_that_no_worker_can_hold_says_so_at_once(
    admin: ApiClient, submit: Submit, job_body: Body, register: Callable[..., None]
) -> None:
    register(memory_bytes=1 << 20, ram_bytes=1 << 20)
    spec = {"spec": {**job_body["spec"], "device": "cuda"}}

    job, too_large = submit(**spec), submit()
    estimate = admin("POST", "/v1/estimates", json={**job_body, **spec}).json()

    assert "needs a GPU, and no running worker has one" in job["status_reason"]["message"]
    assert estimate["warnings"][-1:] == job["warnings"]
    assert estimate["allowed"], "a worker that can hold it may start later"
    assert "the largest running worker has 1.0 MiB" in "".join(too_large["warnings"])
    assert too_large["required_memory_bytes"] > 1 << 20
    register("gpu", accelerator="cuda", memory_bytes=80 * GIB)
    shown = {job["id"]: job["warnings"] for job in admin("GET", "/v1/jobs").json()["data"]}
    assert shown == {job["id"]: [], too_large["id"]: []}


def test_a_requeued_job_keeps_its_own_reason(
    admin: ApiClient, submit: Submit, session: Session, run: Callable[[str], None]
) -> None:
    job = submit()
    run(job["id"])
    reason = {"code": "worker_lost", "message": "m", "retryable": True, "details": []}
    requeue(session, session.get_one(Job, job["id"]), reason)
    session.commit()

    shown = admin("GET", f"/v1/jobs/{job['id']}").json()

    assert (shown["status_reason"]["code"], len(shown["warnings"])) == ("worker_lost", 1)


def test_workers_are_listed_and_name_only_jobs_of_the_own_project(
    admin: ApiClient,
    other_tenant: ApiClient,
    submit: Submit,
    run: Callable[[str], None],
    register: Callable[..., None],
) -> None:
    register("w", machine="Xeon", memory_bytes=4 * GIB)
    register("x", accelerator="cuda", machine="H100")
    job = submit()
    run(job["id"])

    own, foreign = (client("GET", "/v1/workers").json()["data"] for client in (admin, other_tenant))

    assert [(worker["name"], worker["state"], worker["device"]) for worker in own] == [
        ("w", "busy", "Xeon"),
        ("x", "idle", "H100"),
    ]
    assert [worker["job_id"] for worker in own] == [job["id"], None]
    assert [(worker["state"], worker["job_id"]) for worker in foreign] == [("busy", None), ("idle", None)]


def test_readiness_tells_that_no_worker_runs(admin: ApiClient, register: Callable[..., None]) -> None:
    without = admin("GET", "/readyz")
    register()
    with_one = admin("GET", "/readyz")

    assert (without.status_code, len(without.json()["warnings"])) == (200, 1)
    assert "no worker is running" in without.json()["warnings"][0]
    assert (with_one.status_code, with_one.json()) == (200, {"status": "ok", "warnings": []})

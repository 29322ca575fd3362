"""Jobs: submitted once, refused with a message, waited for, cancelled."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from api.auth import Caller
from api.schemas.submissions import JobCreate
from api.services import idempotency
from api.services import jobs as service
from soul_core.spec import JobSpec
from soul_store import job_leases, workers
from soul_store.job_status import JobStatus
from soul_store.placement import Accelerator, WorkerDevice
from soul_store.tables import ApiKey, Dataset, Job, OutboxEntry
from tests.api.conftest import ROWS, ApiClient, problem

Body = dict[str, Any]
FAMILIES = ("forget_terms", "optimizers", "attacks", "strategies", "wrappers")


def count(session: Session, table: type) -> int:
    session.rollback()
    return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_submitted_job_is_queued_with_its_complete_spec(admin: ApiClient, job_body: Body, session: Session) -> None:
    answer = admin("POST", "/v1/jobs", json=job_body)

    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{made['id']}"
    assert (made["status"], made["verdict"], made["allowed_actions"]) == ("queued", None, ["cancel", "pause"])
    assert made["progress"]["queue_position"] == 0
    assert made["spec"]["training"]["steps"] == 3
    assert made["spec"]["forget"] == {"kind": "npo", "weight": 1.0, "beta": 0.1}, "defaults are written out"
    assert count(session, OutboxEntry) == 1


def test_the_same_idempotency_key_creates_one_job(admin: ApiClient, job_body: Body, session: Session) -> None:
    headers = {"Idempotency-Key": "once"}

    first, second = (admin("POST", "/v1/jobs", json=job_body, headers=headers) for _ in range(2))

    assert (second.status_code, second.json()) == (202, first.json())
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert count(session, Job) == 1


def test_the_same_key_with_another_body_is_refused(admin: ApiClient, job_body: Body, session: Session) -> None:
    headers = {"Idempotency-Key": "once"}
    admin("POST", "/v1/jobs", json=job_body, headers=headers)

    problem(
        admin("POST", "/v1/jobs", json={**job_body, "name": "other"}, headers=headers), 422, "idempotency_key_reused"
    )

    assert count(session, Job) == 1


def test_simultaneous_requests_with_one_key_create_one_job(admin: ApiClient, job_body: Body, session: Session) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: admin("POST", "/v1/jobs", json=job_body, headers={"Idempotency-Key": "race"}), range(6))
        )

    assert {answer.status_code for answer in answers} <= {202, 409}
    assert count(session, Job) == 1


def test_a_second_request_must_wait_while_one_with_its_key_runs(
    admin: ApiClient, job_body: Body, session: Session, database: Engine
) -> None:
    """The transaction of the first is open; when it fails, its key is free again."""
    tenant_id = session.scalars(select(ApiKey.tenant_id)).one()
    caller = Caller(tenant_id, "key_x", frozenset("*"))
    headers = {"Idempotency-Key": "slow"}
    with Session(database) as first:
        idempotency.serve_once(first, caller, "slow", {}, lambda: idempotency.IdempotentResponse(202, {}, {}))

        second = admin("POST", "/v1/jobs", json=job_body, headers=headers)

        problem(second, 409, "idempotency_in_flight")
        assert second.headers["retry-after"] == "1"
        first.rollback()
    assert admin("POST", "/v1/jobs", json=job_body, headers=headers).status_code == 202
    assert count(session, Job) == 1


def test_two_projects_can_use_the_same_key(admin: ApiClient, other_tenant: ApiClient, job_body: Body) -> None:
    headers = {"Idempotency-Key": "once"}
    admin("POST", "/v1/jobs", json=job_body, headers=headers)

    problem(other_tenant("POST", "/v1/jobs", json=job_body, headers=headers), 404, "not_found")


@pytest.mark.parametrize(
    ("spec", "pointer", "hint"),
    [
        ({"optimiser": {}}, "/spec/optimiser", "did you mean 'optimizer'?"),  # lint: quote
        ({"optimizer": {"kind": "sophia", "lrr": 1}}, "/spec/optimizer/lrr", "did you mean 'lr'?"),
        ({"optimizer": {"lrr": 1}}, "/spec/optimizer/lrr", "did you mean 'lr'?"),
        ({"forget": {"beta": -1}}, "/spec/forget/beta", "greater than 0"),
        ({"optimizer": {"kind": "sofia"}}, "/spec/optimizer/kind", "unknown kind 'sofia'; did you mean 'sophia'?"),
        ({"forget": {"kind": "npo", "beta": -1}}, "/spec/forget/beta", "greater than 0"),
        ({"training": {"steps": "many"}}, "/spec/training/steps", "integer"),
        ({"evaluation": {"metrics": ["probabilty"]}}, "/spec/evaluation/metrics/0", "did you mean 'probability'?"),
        (
            {"criteria": [{"set": "forget", "metric": "ruge_l", "at_most": 1}]},
            "/spec/criteria/0/metric",
            "did you mean 'rouge_l'?",
        ),
        ({"criteria": [{"set": "forget", "metric": "rouge_l"}]}, "/spec/criteria/0", "at_most or at_least"),
        (
            {"strategy": {"kind": "ensemble", "members": [{}, {"kind": "evaluate"}]}},
            "/spec/strategy/members",
            "strategy.members.1: a member cannot set 'kind'",
        ),
        (
            {"strategy": {"kind": "ensemble", "members": [{}, {"lora": {"output": "adapter"}}]}},
            "/spec/strategy/members/1/lora/output",
            "chooses or merges complete models",
        ),
    ],
)
def test_a_problem_of_the_spec_has_a_pointer(
    admin: ApiClient, job_body: Body, session: Session, spec: Body, pointer: str, hint: str
) -> None:
    answer = admin("POST", "/v1/jobs", json={**job_body, "spec": spec})

    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert hint in error["detail"]
    assert count(session, Job) == 0


def test_a_forget_set_equal_to_the_retain_set_is_refused(admin: ApiClient, job_body: Body, session: Session) -> None:
    same = {"forget": admin.dataset(ROWS), "retain": admin.dataset(ROWS)}

    body = problem(admin("POST", "/v1/jobs", json={**job_body, "datasets": same}), 422, "invalid_job")

    assert body["errors"][0]["pointer"] == "/datasets/retain"
    assert count(session, Job) == 0


def test_a_job_without_a_retain_set_is_queued_with_kl(admin: ApiClient, job_body: Body) -> None:
    body = {"model_id": job_body["model_id"], "datasets": {"forget": job_body["datasets"]["forget"]}}
    answer = admin("POST", "/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["retain"]["kind"] == "kl"
    assert answer.json()["spec"]["data"]["auto_retain"]["kind"] == "auto"


def test_an_estimate_counts_the_generated_retain_set(admin: ApiClient, job_body: Body) -> None:
    def estimate(**data: Any) -> dict[str, Any]:
        body = {"model_id": job_body["model_id"], "datasets": {"forget": job_body["datasets"]["forget"]}}
        return dict(admin("POST", "/v1/estimates", json={**body, "spec": {"data": data, "attacks": []}}).json())

    few, many = (estimate(auto_retain={"neighbors": number}) for number in (10, 500))
    assert few["allowed"]
    assert many["flops"] > few["flops"]
    assert "the base model makes one of about 98 rows" in "".join(few["warnings"])
    assert not any("the data set 'retain'" in warning for warning in few["warnings"])


def test_a_job_without_a_forget_or_needed_retain_set_is_refused(admin: ApiClient, job_body: Body) -> None:
    job_body = {**job_body, "spec": {"data": {"auto_retain": {"kind": "off"}}}}
    for missing, word, pointer in (
        ("forget", "forget set", "/datasets"),
        ("retain", "retain set", "/spec/retain/kind"),
    ):
        sets = {name: value for name, value in job_body["datasets"].items() if name != missing}
        body = problem(admin("POST", "/v1/jobs", json={**job_body, "datasets": sets}), 422, "invalid_job")
        assert word in body["errors"][0]["detail"]
        assert body["errors"][0]["pointer"] == pointer


def test_a_data_set_without_content_is_refused(admin: ApiClient, job_body: Body) -> None:
    empty = admin("POST", "/v1/datasets", json={"name": "later"}).json()["id"]

    body = problem(
        admin("POST", "/v1/jobs", json={**job_body, "datasets": {**job_body["datasets"], "forget": empty}}),
        422,
        "invalid_job",
    )

    assert "awaiting_content" in body["detail"]


def test_another_projects_model_and_data_are_not_found(
    admin: ApiClient, other_tenant: ApiClient, job_body: Body, session: Session
) -> None:
    body = problem(other_tenant("POST", "/v1/jobs", json=job_body), 404, "not_found")

    pointers = {error["pointer"] for error in body["errors"]}
    assert pointers == {"/model_id", "/datasets/forget", "/datasets/retain"}
    assert count(session, Job) == 0


def test_another_projects_job_is_not_found(admin: ApiClient, other_tenant: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"

    for where in ("", "/events", "/events/stream", "/metrics", "/report", "/artifacts"):
        problem(other_tenant("GET", path + where), 404, "not_found")
    problem(other_tenant("POST", f"{path}/cancel"), 404, "not_found")
    assert other_tenant("GET", "/v1/jobs").json()["data"] == []


def test_a_queued_job_is_cancelled_once(admin: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"

    assert admin("POST", f"{path}/cancel").json()["status"] == "cancelled"

    body = problem(admin("POST", f"{path}/cancel"), 409, "not_allowed")
    assert (body["detail"], body["job_status"]) == ("cannot cancel a job that is cancelled", "cancelled")
    assert body["allowed_actions"] == ["retry"]


def test_an_unchanged_job_answers_304(admin: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"
    etag = admin("GET", path).headers["etag"]

    for known in (etag, f'"another", {etag}', "*"):
        assert admin("GET", path, headers={"If-None-Match": known}).status_code == 304
    admin("POST", f"{path}/cancel")
    assert admin("GET", path, headers={"If-None-Match": etag}).status_code == 200


def test_a_wait_ends_when_the_job_changes(admin: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"
    later = threading.Timer(0.5, lambda: admin("POST", f"{path}/cancel"))
    later.start()
    started = time.monotonic()

    answer = admin("GET", f"{path}?wait=20")

    later.join()
    assert answer.json()["status"] == "cancelled"
    assert time.monotonic() - started < 10


def test_a_wait_ends_at_its_limit(admin: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"

    assert admin("GET", f"{path}?wait=0.3").json()["status"] == "queued"


def test_a_wait_ends_when_its_key_is_revoked(admin: ApiClient, job_body: Body) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"
    key = admin("POST", "/v1/api-keys", json={"name": "reader", "scopes": ["jobs:read"]}).json()
    later = threading.Timer(0.5, lambda: admin("DELETE", f"/v1/api-keys/{key['id']}"))
    later.start()

    answer = ApiClient(admin.http, key["key"])("GET", f"{path}?wait=20")

    later.join()
    problem(answer, 401, "unauthorized")


def test_the_list_has_filters_and_pages(admin: ApiClient, job_body: Body) -> None:
    made = [admin("POST", "/v1/jobs", json={**job_body, "name": f"job {n}"}).json()["id"] for n in range(3)]
    admin("POST", f"/v1/jobs/{made[0]}/cancel")

    assert [job["id"] for job in admin("GET", "/v1/jobs?status=queued").json()["data"]] == [made[2], made[1]]
    assert [job["id"] for job in admin("GET", "/v1/jobs?name=job 1").json()["data"]] == [made[1]]
    page = admin("GET", "/v1/jobs?limit=2").json()
    assert page["has_more"]
    assert [job["id"] for job in admin("GET", f"/v1/jobs?cursor={page['next_cursor']}").json()["data"]] == [made[0]]


@pytest.mark.parametrize("status", JobStatus)
def test_the_filter_accepts_every_status(admin: ApiClient, status: JobStatus) -> None:
    assert admin("GET", f"/v1/jobs?status={status}").json()["data"] == []


def test_the_filter_refuses_an_unknown_status(admin: ApiClient) -> None:
    problem(admin("GET", "/v1/jobs?status=runing"), 422, "invalid_request")


def test_a_data_set_cannot_be_deleted_while_a_job_on_it_is_created(
    admin: ApiClient, job_body: Body, session: Session, database: Engine
) -> None:
    """The job's transaction is open: the deletion waits for it, and then finds the job."""
    dataset_id = job_body["datasets"]["forget"]
    caller = Caller(
        session.get_one(Dataset, dataset_id).tenant_id, session.scalars(select(ApiKey.id)).one(), frozenset("*")
    )
    service.create(session, caller, JobCreate.model_validate(job_body))

    with ThreadPoolExecutor(1) as pool:
        deletion = pool.submit(admin, "DELETE", f"/v1/datasets/{dataset_id}")
        with pytest.raises(TimeoutError):
            deletion.result(timeout=0.5)
        session.commit()
        problem(deletion.result(timeout=10), 409, "in_use")


def test_jobs_on_the_same_data_sets_do_not_wait_for_each_other(
    admin: ApiClient, job_body: Body, session: Session
) -> None:
    """Nor can they deadlock: they only share the rows."""
    tenant_id = session.get_one(Dataset, job_body["datasets"]["forget"]).tenant_id
    caller = Caller(tenant_id, session.scalars(select(ApiKey.id)).one(), frozenset("*"))
    service.create(session, caller, JobCreate.model_validate(job_body))

    with ThreadPoolExecutor(1) as pool:
        try:
            made = pool.submit(admin, "POST", "/v1/jobs", json=job_body).result(timeout=10)
        finally:
            session.rollback()

    assert made.status_code == 202


def test_an_estimate_writes_nothing_and_warns(admin: ApiClient, job_body: Body, session: Session) -> None:
    overlapping = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(ROWS[1:])}

    estimate = admin("POST", "/v1/estimates", json={**job_body, "datasets": overlapping}).json()

    assert estimate["allowed"]
    assert estimate["seconds"] > 0
    assert estimate["output_bytes"] == 8 * 4 * 4
    message = "1 row of the retain set states, or asks for, facts of the forget set: left out of training"
    assert any(warning.startswith(message) for warning in estimate["warnings"])
    assert count(session, Job) == 0


def test_the_size_of_the_output_follows_the_dtype(admin: ApiClient, job_body: Body, model_folder: Path) -> None:
    def output_bytes(**export: str) -> int:
        estimate = admin("POST", "/v1/estimates", json={**job_body, "spec": {"export": export}}).json()
        assert estimate["allowed"], estimate
        return int(estimate["output_bytes"])

    assert output_bytes() == output_bytes(dtype="float32") == 32 * 4
    assert output_bytes(dtype="bfloat16") == 32 * 2
    assert output_bytes(dtype="bfloat16", gguf="f16") == 32 * (2 + 2)
    assert output_bytes(gguf="q8_0") == 32 * 4 + 34


def test_an_architecture_without_gguf_is_refused_at_submission(
    admin: ApiClient, job_body: Body, model_folder: Path
) -> None:
    path = model_folder / "config.json"
    path.write_text(path.read_text().replace("LlamaForCausalLM", "Gemma2ForCausalLM"))
    model = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)}).json()
    body = {**job_body, "model_id": model["id"], "spec": {"export": {"gguf": "q8_0"}}}

    (error,) = problem(admin("POST", "/v1/jobs", json=body), 422, "invalid_job")["errors"]

    assert error["pointer"] == "/spec/export/gguf"
    assert "Gemma2ForCausalLM cannot be written as GGUF" in error["detail"]
    assert model["facts"]["parameters_by_dtype"] == {"float32": 32}


@pytest.mark.parametrize(
    ("recorded", "device", "basis"),
    [
        ([], "auto", "one worker on a CPU (no worker has reported a GPU or a CPU) at 6e+10 operations per second"),
        (["cpu"], "auto", "one worker on a CPU (the fastest that a worker has reported) at 6e+10"),
        (["cpu", "cuda"], "auto", "one worker on a GPU (the fastest that a worker has reported) at 1.5e+14"),
        (["cuda"], "cpu", "one worker on a CPU (spec.device is 'cpu') at 6e+10"),
        ([], "cuda", "one worker on a GPU (spec.device is 'cuda') at 1.5e+14"),
    ],
)
def test_an_estimate_assumes_the_fastest_accelerator_of_the_fleet(
    admin: ApiClient, job_body: Body, session: Session, recorded: list[Accelerator], device: str, basis: str
) -> None:
    for number, accelerator in enumerate(recorded):
        workers.record(session, name=f"host {number}", device=WorkerDevice(accelerator))
    session.commit()

    estimate = admin("POST", "/v1/estimates", json={**job_body, "spec": {"device": device}}).json()

    assert basis in estimate["basis"]


def test_an_estimate_for_a_gpu_is_shorter(admin: ApiClient, job_body: Body, session: Session) -> None:
    body = {**job_body, "spec": {"training": {"steps": 100_000}}}
    on_cpu = admin("POST", "/v1/estimates", json=body).json()
    workers.record(session, name="host", device=WorkerDevice("cuda"))
    session.commit()

    on_gpu = admin("POST", "/v1/estimates", json=body).json()

    assert on_gpu["seconds"] < on_cpu["seconds"]
    assert on_gpu["flops"] == on_cpu["flops"]


def test_an_estimate_counts_every_training_and_every_attack(admin: ApiClient, job_body: Body) -> None:
    def flops(**spec: Any) -> float:
        body = {**job_body, "spec": {"training": {"steps": 100}, **spec}}
        estimate = admin("POST", "/v1/estimates", json=body).json()
        assert estimate["allowed"], estimate
        return float(estimate["flops"])

    alone = flops(attacks=[])

    assert flops(attacks=[{"kind": "relearn"}]) > alone
    assert flops(attacks=[], strategy={"kind": "search", "trials": 3}) > 2 * alone
    assert flops(attacks=[], strategy={"kind": "ensemble", "members": [{}, {"training": {"steps": 900}}]}) > 2 * alone
    often, rarely = ({"kind": "search", "trials": 3, "eval_every": every} for every in (2, 50))
    assert flops(attacks=[], strategy=often) > flops(attacks=[], strategy=rarely)
    assert flops(attacks=[], optimizer={"kind": "adamw"}) < alone
    assert flops(attacks=[], training={"epochs": 500}) > alone, "2 rows in batches of 4: 250 steps"


def test_an_estimate_warns_of_criteria_without_a_metric(admin: ApiClient, job_body: Body) -> None:
    criteria = [
        {"set": "forgte", "metric": "probability", "at_most": 0.1},
        {"set": "forget", "metric": "perplexity", "at_most": 9},
        {"set": "forget", "metric": "probability", "at_most": 0.1},
    ]
    spec = {"criteria": criteria, "evaluation": {"metrics": ["probability"]}}

    warnings = admin("POST", "/v1/estimates", json={**job_body, "spec": spec}).json()["warnings"]

    assert [warning.partition(" ")[0] for warning in warnings[:-1]] == ["criteria.0", "criteria.1"]
    assert "no worker is running" in warnings[-1]
    assert "'forgte'" in warnings[0]


def test_an_estimate_knows_the_sets_that_a_run_makes(admin: ApiClient, job_body: Body) -> None:
    rows = [{"prompt": f"Who lives at number {number}?", "completion": f"Person {number}."} for number in range(5)]
    large = {**job_body["datasets"], "retain": admin.dataset(rows)}

    def get(datasets: Body, **spec: Any) -> Any:
        return admin("POST", "/v1/estimates", json={**job_body, "datasets": datasets, "spec": spec}).json()

    small_warnings, large_warnings = get(job_body["datasets"])["warnings"], get(large)["warnings"]
    assert [warning for warning in small_warnings if "'retain_held_out'" in warning]
    assert not [warning for warning in large_warnings if "it will be inconclusive" in warning]
    assert get(large)["flops"] > get(large, evaluation={"general_text": []})["flops"]


def test_an_estimate_lists_the_problems_of_a_job(admin: ApiClient, job_body: Body) -> None:
    estimate = admin("POST", "/v1/estimates", json={**job_body, "model_id": "mdl_nothing"}).json()

    assert not estimate["allowed"]
    assert estimate["errors"] == [{"pointer": "/model_id", "detail": "there is no model mdl_nothing"}]


def test_methods_list_every_kind_with_schema_and_defaults(admin: ApiClient) -> None:
    methods = admin("GET", "/v1/methods").json()

    kinds = {
        family: {method["kind"] for method in entries} for family, entries in methods.items() if family in FAMILIES
    }
    assert kinds["forget_terms"] >= {"grad_diff", "npo", "refusal"}
    assert kinds["optimizers"] >= {"adamw", "sophia"}
    assert kinds["attacks"] >= {"quantize", "relearn"}
    assert kinds["strategies"] == {"single", "search", "ensemble", "influence"}
    assert kinds["wrappers"] == {"parameters", "saliency", "sharpness", "latent", "lora"}
    assert kinds["wrappers"] <= set(methods["spec"]["defaults"])
    assert "probability" in {metric["name"] for metric in methods["metrics"]}
    sophia = next(method for method in methods["optimizers"] if method["kind"] == "sophia")
    assert sophia["defaults"]["curvature"]["kind"] == "gnb"
    assert "properties" in sophia["schema"]


def test_methods_list_published_tasks_with_ready_specs(admin: ApiClient) -> None:
    tasks = {task["name"]: task for task in admin("GET", "/v1/methods").json()["tasks"]}

    assert {"tofu", "book", "detox", "personal_data"} <= set(tasks)
    assert JobSpec.model_validate(tasks["tofu"]["recipe"]).training.epochs == 5


def test_cancelling_a_running_job_records_the_requested_action(
    admin: ApiClient, job_body: Body, database: Engine
) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    with Session(database) as session, session.begin():
        job_leases.claim(session, job_id, worker="w", lease_seconds=60)

    shown = admin("POST", f"/v1/jobs/{job_id}/cancel").json()

    assert (shown["status"], shown["requested_action"]) == ("running", "cancel")

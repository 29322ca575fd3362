"""Evaluations, fine-tuning and retrained models over HTTP: what is accepted, created and refused."""

from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from soul_store import job_leases
from soul_store.blobs import get_blob_store
from soul_store.job_leases import JobLease
from soul_store.tables import Job, OutboxEntry
from tests.api.conftest import ROWS, ApiClient, problem
from tests.fixtures.blobs import put_bytes

Body = dict[str, Any]


@pytest.fixture
def evaluation(admin: ApiClient, model_id: str) -> Body:
    return {
        "name": "audit",
        "model_id": model_id,
        "models": {"before": model_id},
        "datasets": {"customers": admin.dataset(ROWS)},
        "spec": {"evaluation": {"metrics": ["probability"]}, "attacks": []},
    }


@pytest.fixture
def finish(admin: ApiClient, job_body: Body, database: Engine) -> Any:
    """Lets a job succeed, with these files."""

    def end(job_id: str, *paths: str, verdict: str = "passed") -> None:
        with Session(database) as session, session.begin():
            job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
            assert job is not None
            artifacts = []
            for path in ("report.json", "checkpoint/model.safetensors", *paths):
                stored = put_bytes(get_blob_store(), f"jobs/{job_id}/1/{path}", b"{}")
                artifacts.append(job_leases.NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
            report = artifacts[0].blob
            lease = JobLease(job_id, 1)
            job_leases.succeed(session, lease, verdict=verdict, report_blob=report, artifacts=artifacts, usage={})

    return end


def with_retraining(job_body: Body, **more: Any) -> Body:
    retrained = {"kind": "retrain", "model_id": job_body["model_id"], "training": {"steps": 2}, **more}
    return {**job_body, "retrained": retrained}


def log_message(admin: ApiClient, job: Body) -> str:
    """Return the only message in the job's log."""
    events = admin("GET", f"/v1/jobs/{job['id']}/events").json()["data"]
    return str(next(event["data"]["message"] for event in events if event["kind"] == "log"))


def errors(answer: Any, status: int, code: str) -> dict[str, str]:
    return {error["pointer"]: error["detail"] for error in problem(answer, status, code)["errors"]}


# --- evaluations ---


def test_an_evaluation_is_a_job_that_changes_no_model(admin: ApiClient, evaluation: Body) -> None:
    answer = admin("POST", "/v1/evaluations", json=evaluation)

    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/evaluations/{made['id']}"
    assert (made["kind"], made["spec"]["kind"], made["spec"]["criteria"]) == ("evaluate", "evaluate", [])
    assert made["models"] == evaluation["models"]
    assert admin("GET", f"/v1/evaluations/{made['id']}").json() == admin("GET", f"/v1/jobs/{made['id']}").json()
    assert [job["id"] for job in admin("GET", "/v1/evaluations").json()["data"]] == [made["id"]]
    assert [job["id"] for job in admin("GET", "/v1/jobs?kind=evaluate").json()["data"]] == [made["id"]]
    assert admin("GET", "/v1/jobs?kind=unlearn").json()["data"] == []


def test_an_evaluation_sent_twice_with_one_key_is_created_once(admin: ApiClient, evaluation: Body) -> None:
    first, second = (
        admin("POST", "/v1/evaluations", json=evaluation, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )

    assert first.json() == second.json()


def test_a_job_that_unlearns_is_not_an_evaluation(admin: ApiClient, job_body: Body, evaluation: Body) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    problem(admin("GET", f"/v1/evaluations/{job_id}"), 404, "not_found")
    assert admin("GET", "/v1/evaluations").json()["data"] == []
    refused = admin("POST", "/v1/evaluations", json={**evaluation, "spec": {"kind": "finetune"}})
    problem(refused, 422, "invalid_request")


def test_an_evaluation_without_data_sets_is_refused(admin: ApiClient, evaluation: Body) -> None:
    details = errors(admin("POST", "/v1/evaluations", json={**evaluation, "datasets": {}}), 422, "invalid_job")

    assert "no data set" in details["/datasets"]


def test_an_evaluation_may_have_the_same_rows_under_two_names(admin: ApiClient, evaluation: Body) -> None:
    rows = evaluation["datasets"]["customers"]

    answer = admin("POST", "/v1/evaluations", json={**evaluation, "datasets": {"forget": rows, "retain": rows}})

    assert answer.status_code == 202, answer.text


def test_another_projects_models_are_not_found(
    admin: ApiClient, other_tenant: ApiClient, evaluation: Body, model_id: str
) -> None:
    own = {**evaluation, "datasets": {"a": other_tenant.dataset(ROWS)}}

    details = errors(other_tenant("POST", "/v1/evaluations", json=own), 404, "not_found")

    assert set(details) == {"/model_id", "/models/before"}


def test_only_an_evaluation_compares_with_models_of_any_name(admin: ApiClient, job_body: Body, model_id: str) -> None:
    details = errors(admin("POST", "/v1/jobs", json={**job_body, "models": {"before": model_id}}), 422, "invalid_job")

    assert "'before'" in details["/models"]


def test_an_evaluation_is_estimated_without_training(admin: ApiClient, evaluation: Body, job_body: Body) -> None:
    spec = {**evaluation["spec"], "kind": "evaluate"}
    audit = admin("POST", "/v1/estimates", json={**evaluation, "spec": spec}).json()
    attacked = admin(
        "POST", "/v1/estimates", json={**evaluation, "datasets": job_body["datasets"], "spec": {"kind": "evaluate"}}
    ).json()
    calm = {"kind": "evaluate", "attacks": []}
    unattacked = admin(
        "POST", "/v1/estimates", json={**evaluation, "datasets": job_body["datasets"], "spec": calm}
    ).json()

    assert audit["allowed"], audit
    assert audit["output_bytes"] is None
    assert 0 < unattacked["flops"] < attacked["flops"]


# --- fine-tuning ---


def test_fine_tuning_needs_a_train_set(admin: ApiClient, job_body: Body) -> None:
    spec = {"kind": "finetune", "training": {"steps": 2}}
    details = errors(admin("POST", "/v1/jobs", json={**job_body, "spec": spec}), 422, "invalid_job")
    accepted = admin("POST", "/v1/jobs", json={**job_body, "spec": spec, "datasets": {"train": admin.dataset(ROWS)}})

    assert "train" in details["/datasets"]
    assert (accepted.status_code, accepted.json()["kind"]) == (202, "finetune")


# --- retrained models ---


def test_a_registered_model_may_be_the_retrained_model(admin: ApiClient, job_body: Body, model_id: str) -> None:
    retrained = {"kind": "model", "model_id": model_id}

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": retrained}).json()

    assert made["models"] == {"retrained": model_id}
    twice = {**job_body, "retrained": retrained, "models": {"retrained": model_id}}
    assert set(errors(admin("POST", "/v1/jobs", json=twice), 422, "invalid_job")) == {"/retrained"}


def test_a_retraining_is_a_separate_job_that_the_first_waits_for(
    admin: ApiClient, job_body: Body, session: Session
) -> None:
    made = admin("POST", "/v1/jobs", json=with_retraining(job_body)).json()

    first = admin("GET", f"/v1/jobs/{made['depends_on_job_id']}").json()
    assert (first["kind"], first["status"], made["status"]) == ("finetune", "queued", "queued")
    assert first["datasets"] == {"train": job_body["datasets"]["retain"]}
    assert (first["spec"]["optimizer"]["kind"], first["spec"]["training"]["steps"]) == ("adamw", 2)
    assert session.scalars(select(OutboxEntry.payload)).all() == [{"job_id": first["id"]}], "the other one waits"


def test_a_retraining_is_reused_and_the_events_report_it(admin: ApiClient, job_body: Body, finish: Any) -> None:
    first = admin("POST", "/v1/jobs", json=with_retraining(job_body)).json()
    same = admin("POST", "/v1/jobs", json=with_retraining({**job_body, "name": "again"})).json()
    finish(first["depends_on_job_id"], verdict="inconclusive")
    late = admin("POST", "/v1/jobs", json=with_retraining({**job_body, "name": "late"})).json()
    other = admin("POST", "/v1/jobs", json=with_retraining(job_body, training={"steps": 3})).json()

    assert (
        first["depends_on_job_id"]
        == same["depends_on_job_id"]
        == late["depends_on_job_id"]
        != other["depends_on_job_id"]
    )
    models = {admin("GET", f"/v1/jobs/{made['id']}").json()["models"]["retrained"] for made in (first, same, late)}
    assert len(models) == 1
    assert "is the output of job" in log_message(admin, late)
    assert "(reused: same model, rows and settings)" in log_message(admin, same)
    assert "reused" not in log_message(admin, first)


def test_a_cancelled_retraining_fails_the_job_that_waits(admin: ApiClient, job_body: Body) -> None:
    made = admin("POST", "/v1/jobs", json=with_retraining(job_body)).json()

    admin("POST", f"/v1/jobs/{made['depends_on_job_id']}/cancel")

    ended = admin("GET", f"/v1/jobs/{made['id']}").json()
    assert (ended["status"], ended["status_reason"]["code"]) == ("failed", "retraining_failed")


def test_an_impossible_retraining_is_refused_before_any_job_is_created(
    admin: ApiClient, job_body: Body, session: Session
) -> None:
    forget_only = {
        **job_body,
        "datasets": {"forget": job_body["datasets"]["forget"]},
        "spec": {"retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}},
    }

    no_set = errors(admin("POST", "/v1/jobs", json=with_retraining(forget_only)), 422, "invalid_job")
    no_model = errors(admin("POST", "/v1/jobs", json=with_retraining(job_body, model_id="mdl_no")), 404, "not_found")

    assert set(no_set) == {"/retrained"}
    assert set(no_model) == {"/retrained/model_id"}
    assert session.scalars(select(Job)).all() == []


@pytest.mark.parametrize("by", ["job_id", "artifact_id"])
def test_a_log_replaces_the_retrained_model(admin: ApiClient, job_body: Body, finish: Any, by: str) -> None:
    earlier = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    finish(earlier, "logs/retrained.json")
    listed = admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]
    log = next(artifact["id"] for artifact in listed if artifact["path"] == "logs/retrained.json")
    retrained = {"kind": "log", by: {"job_id": earlier, "artifact_id": log}[by]}

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": retrained}).json()

    assert (made["retrained_log_id"], made["models"]) == (log, {})


def test_the_log_of_a_fine_tuned_model_replaces_the_retrained_model(
    admin: ApiClient, job_body: Body, finish: Any
) -> None:
    spec = {"kind": "finetune"}
    trained = {**job_body, "spec": spec, "datasets": {"train": job_body["datasets"]["retain"]}}
    earlier = admin("POST", "/v1/jobs", json=trained).json()["id"]
    finish(earlier, "logs/finetuned.json", "logs/base.json")

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": {"kind": "log", "job_id": earlier}}).json()

    listed = {
        artifact["id"]: artifact["path"] for artifact in admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]
    }
    assert listed[made["retrained_log_id"]] == "logs/finetuned.json"


def test_a_job_without_a_log_and_a_file_that_is_not_a_log_are_refused(
    admin: ApiClient, job_body: Body, finish: Any
) -> None:
    earlier = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    finish(earlier, "logs/unlearned.json")
    listed = admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]
    weights = next(artifact["id"] for artifact in listed if artifact["path"] == "checkpoint/model.safetensors")

    def submit(**retrained: str) -> dict[str, str]:
        answer = admin("POST", "/v1/jobs", json={**job_body, "retrained": {"kind": "log", **retrained}})
        return errors(answer, answer.status_code, answer.json()["code"])

    assert "no logs/retrained.json" in submit(job_id=earlier)["/retrained/job_id"]
    assert "not a log of a model" in submit(artifact_id=weights)["/retrained/artifact_id"]
    assert set(submit(job_id="job_no")) == {"/retrained/job_id"}
    assert set(submit(artifact_id="art_no")) == {"/retrained/artifact_id"}


def test_an_estimate_counts_the_retraining(admin: ApiClient, job_body: Body) -> None:
    alone = admin("POST", "/v1/estimates", json=job_body).json()
    both = admin("POST", "/v1/estimates", json=with_retraining(job_body)).json()

    assert both["flops"] > alone["flops"]
    assert any("retrained first" in warning for warning in both["warnings"])


def test_the_schema_of_reports_needs_no_key(http: Any) -> None:
    schema = http.get("/v1/schemas/report").json()

    assert "schema_version" in schema["properties"]
    assert "AttackResult" in schema["$defs"]

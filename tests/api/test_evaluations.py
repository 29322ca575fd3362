"""Evaluations, fine-tuning and references over HTTP: what is taken, what is made of it, what is refused in words."""

from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from soul_store import job_leases
from soul_store.blobs import get_blob_store
from soul_store.job_leases import JobLease
from soul_store.tables import Job, OutboxEntry
from tests.api.conftest import ROWS, As, problem

Body = dict[str, Any]


@pytest.fixture
def evaluation(admin: As, model_id: str) -> Body:
    return {
        "name": "audit",
        "model_id": model_id,
        "models": {"before": model_id},
        "datasets": {"customers": admin.dataset(ROWS)},
        "spec": {"evaluation": {"metrics": ["probability"]}, "attacks": []},
    }


@pytest.fixture
def finished(admin: As, job_body: Body, database: Engine) -> Any:
    """Ends a job well, with these files."""

    def end(job_id: str, *paths: str, verdict: str = "passed") -> None:
        with Session(database) as session, session.begin():
            job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
            assert job is not None
            made = []
            for path in ("report.json", "checkpoint/model.safetensors", *paths):
                stored = get_blob_store().put_stream(f"jobs/{job_id}/1/{path}", [b"{}"])
                made.append(job_leases.NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
            report = made[0].blob
            job_leases.succeed(
                session, JobLease(job_id, 1), verdict=verdict, report_blob=report, artifacts=made, usage={}
            )

    return end


def retrained(job_body: Body, **more: Any) -> Body:
    retrained = {"kind": "retrain", "model_id": job_body["model_id"], "training": {"steps": 2}, **more}
    return {**job_body, "retrained": retrained}


def errors(answer: Any, status: int, code: str) -> dict[str, str]:
    return {each["pointer"]: each["detail"] for each in problem(answer, status, code)["errors"]}


# --- evaluations ---


def test_an_evaluation_is_a_job_that_only_measures(admin: As, evaluation: Body) -> None:
    answer = admin("POST", "/v1/evaluations", json=evaluation)

    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/evaluations/{made['id']}"
    assert (made["kind"], made["spec"]["kind"], made["spec"]["criteria"]) == ("evaluate", "evaluate", [])
    assert made["models"] == evaluation["models"]
    assert admin("GET", f"/v1/evaluations/{made['id']}").json() == admin("GET", f"/v1/jobs/{made['id']}").json()
    assert [each["id"] for each in admin("GET", "/v1/evaluations").json()["data"]] == [made["id"]]
    assert [each["id"] for each in admin("GET", "/v1/jobs?kind=evaluate").json()["data"]] == [made["id"]]
    assert admin("GET", "/v1/jobs?kind=unlearn").json()["data"] == []


def test_an_evaluation_sent_twice_with_one_key_is_one(admin: As, evaluation: Body) -> None:
    first, second = (
        admin("POST", "/v1/evaluations", json=evaluation, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )

    assert first.json() == second.json()


def test_a_job_that_unlearns_is_no_evaluation(admin: As, job_body: Body, evaluation: Body) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    problem(admin("GET", f"/v1/evaluations/{job_id}"), 404, "not_found")
    assert admin("GET", "/v1/evaluations").json()["data"] == []
    refused = admin("POST", "/v1/evaluations", json={**evaluation, "spec": {"kind": "finetune"}})
    problem(refused, 422, "invalid_request")


def test_an_evaluation_of_nothing_is_refused(admin: As, evaluation: Body) -> None:
    found = errors(admin("POST", "/v1/evaluations", json={**evaluation, "datasets": {}}), 422, "invalid_job")

    assert "no data set" in found["/datasets"]


def test_an_evaluation_may_ask_the_same_rows_under_two_names(admin: As, evaluation: Body) -> None:
    rows = evaluation["datasets"]["customers"]

    answer = admin("POST", "/v1/evaluations", json={**evaluation, "datasets": {"forget": rows, "retain": rows}})

    assert answer.status_code == 202, answer.text


def test_another_projects_models_are_not_there(admin: As, stranger: As, evaluation: Body, model_id: str) -> None:
    own = {**evaluation, "datasets": {"a": stranger.dataset(ROWS)}}

    found = errors(stranger("POST", "/v1/evaluations", json=own), 404, "not_found")

    assert set(found) == {"/model_id", "/models/before"}


def test_only_an_evaluation_compares_with_models_of_any_name(admin: As, job_body: Body, model_id: str) -> None:
    found = errors(admin("POST", "/v1/jobs", json={**job_body, "models": {"before": model_id}}), 422, "invalid_job")

    assert "'before'" in found["/models"]


def test_an_evaluation_is_estimated_without_training(admin: As, evaluation: Body, job_body: Body) -> None:
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


def test_fine_tuning_needs_a_train_set(admin: As, job_body: Body) -> None:
    spec = {"kind": "finetune", "training": {"steps": 2}}
    found = errors(admin("POST", "/v1/jobs", json={**job_body, "spec": spec}), 422, "invalid_job")
    taken = admin("POST", "/v1/jobs", json={**job_body, "spec": spec, "datasets": {"train": admin.dataset(ROWS)}})

    assert "train" in found["/datasets"]
    assert (taken.status_code, taken.json()["kind"]) == (202, "finetune")


# --- references ---


def test_a_reference_may_be_a_model(admin: As, job_body: Body, model_id: str) -> None:
    retrained = {"kind": "model", "model_id": model_id}

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": retrained}).json()

    assert made["models"] == {"retrained": model_id}
    twice = {**job_body, "retrained": retrained, "models": {"retrained": model_id}}
    assert set(errors(admin("POST", "/v1/jobs", json=twice), 422, "invalid_job")) == {"/retrained"}


def test_a_retrained_reference_is_a_job_of_its_own_that_is_waited_for(
    admin: As, job_body: Body, session: Session
) -> None:
    made = admin("POST", "/v1/jobs", json=retrained(job_body)).json()

    first = admin("GET", f"/v1/jobs/{made['depends_on_job_id']}").json()
    assert (first["kind"], first["status"], made["status"]) == ("finetune", "queued", "queued")
    assert first["datasets"] == {"train": job_body["datasets"]["retain"]}
    assert (first["spec"]["optimizer"]["kind"], first["spec"]["training"]["steps"]) == ("adamw", 2)
    assert session.scalars(select(OutboxEntry.payload)).all() == [{"job_id": first["id"]}], "the other one waits"


def test_a_retraining_is_found_again_and_said_so(admin: As, job_body: Body, finished: Any) -> None:
    first = admin("POST", "/v1/jobs", json=retrained(job_body)).json()
    same = admin("POST", "/v1/jobs", json=retrained({**job_body, "name": "again"})).json()
    finished(first["depends_on_job_id"], verdict="inconclusive")
    late = admin("POST", "/v1/jobs", json=retrained({**job_body, "name": "late"})).json()
    other = admin("POST", "/v1/jobs", json=retrained(job_body, training={"steps": 3})).json()

    assert (
        first["depends_on_job_id"]
        == same["depends_on_job_id"]
        == late["depends_on_job_id"]
        != other["depends_on_job_id"]
    )
    models = {admin("GET", f"/v1/jobs/{made['id']}").json()["models"]["retrained"] for made in (first, same, late)}
    assert len(models) == 1
    told = admin("GET", f"/v1/jobs/{late['id']}/events").json()["data"]
    assert any("retrained before" in event["data"].get("message", "") for event in told)
    told = admin("GET", f"/v1/jobs/{same['id']}/events").json()["data"]
    assert any("found again" in event["data"].get("message", "") for event in told)


def test_a_cancelled_retraining_fails_the_job_that_waits_for_it(admin: As, job_body: Body) -> None:
    made = admin("POST", "/v1/jobs", json=retrained(job_body)).json()

    admin("POST", f"/v1/jobs/{made['depends_on_job_id']}/cancel")

    ended = admin("GET", f"/v1/jobs/{made['id']}").json()
    assert (ended["status"], ended["status_reason"]["code"]) == ("failed", "retraining_failed")


def test_what_cannot_be_retrained_is_refused_before_anything_is_made(
    admin: As, job_body: Body, session: Session
) -> None:
    forget_only = {
        **job_body,
        "datasets": {"forget": job_body["datasets"]["forget"]},
        "spec": {"retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}},
    }

    no_set = errors(admin("POST", "/v1/jobs", json=retrained(forget_only)), 422, "invalid_job")
    no_model = errors(admin("POST", "/v1/jobs", json=retrained(job_body, model_id="mdl_no")), 404, "not_found")

    assert set(no_set) == {"/retrained"}
    assert set(no_model) == {"/retrained/model_id"}
    assert session.scalars(select(Job)).all() == []


@pytest.mark.parametrize("by", ["job_id", "artifact_id"])
def test_a_log_stands_for_the_reference(admin: As, job_body: Body, finished: Any, by: str) -> None:
    earlier = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    finished(earlier, "logs/retrained.json")
    listed = admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]
    log = next(each["id"] for each in listed if each["path"] == "logs/retrained.json")
    retrained = {"kind": "log", by: {"job_id": earlier, "artifact_id": log}[by]}

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": retrained}).json()

    assert (made["retrained_log_id"], made["models"]) == (log, {})


def test_a_fine_tuned_models_own_log_stands_for_the_reference(admin: As, job_body: Body, finished: Any) -> None:
    spec = {"kind": "finetune"}
    trained = {**job_body, "spec": spec, "datasets": {"train": job_body["datasets"]["retain"]}}
    earlier = admin("POST", "/v1/jobs", json=trained).json()["id"]
    finished(earlier, "logs/finetuned.json", "logs/base.json")

    made = admin("POST", "/v1/jobs", json={**job_body, "retrained": {"kind": "log", "job_id": earlier}}).json()

    listed = {each["id"]: each["path"] for each in admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]}
    assert listed[made["retrained_log_id"]] == "logs/finetuned.json"


def test_a_job_without_a_log_and_a_file_that_is_none_are_refused(admin: As, job_body: Body, finished: Any) -> None:
    earlier = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    finished(earlier, "logs/unlearned.json")
    listed = admin("GET", f"/v1/jobs/{earlier}/artifacts").json()["data"]
    weights = next(each["id"] for each in listed if each["path"] == "checkpoint/model.safetensors")

    def refused(**retrained: str) -> dict[str, str]:
        answer = admin("POST", "/v1/jobs", json={**job_body, "retrained": {"kind": "log", **retrained}})
        return errors(answer, answer.status_code, answer.json()["code"])

    assert "no logs/retrained.json" in refused(job_id=earlier)["/retrained/job_id"]
    assert "no log" in refused(artifact_id=weights)["/retrained/artifact_id"]
    assert set(refused(job_id="job_no")) == {"/retrained/job_id"}
    assert set(refused(artifact_id="art_no")) == {"/retrained/artifact_id"}


def test_an_estimate_counts_the_retraining(admin: As, job_body: Body) -> None:
    alone = admin("POST", "/v1/estimates", json=job_body).json()
    both = admin("POST", "/v1/estimates", json=retrained(job_body)).json()

    assert both["flops"] > alone["flops"]
    assert any("retrained first" in warning for warning in both["warnings"])


def test_the_schema_of_reports_is_there_for_everybody(http: Any) -> None:
    schema = http.get("/v1/schemas/report").json()

    assert "schema_version" in schema["properties"]
    assert "AttackResult" in schema["$defs"]

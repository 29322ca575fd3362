"""A job on the output of an earlier job evaluates the earlier forget sets again."""

import re
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from soul_store.tables import Job, Model
from tests.api.conftest import ROWS, ApiClient, problem

Body = dict[str, Any]


@pytest.fixture
def next_body(admin: ApiClient, job_body: Body, session: Session) -> Body:
    """The body of a job on the output of a job that has succeeded."""
    first = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    new = {"forget": admin.dataset([{**ROWS[0], "prompt": "Who?"}]), "retain": job_body["datasets"]["retain"]}
    return {**job_body, "model_id": output_of(session, first), "datasets": new}


def output_of(session: Session, job_id: str) -> str:
    """Let a job succeed, and return its output model."""
    result = {"status": "succeeded", "verdict": "passed", "finished_at": func.now()}
    session.execute(update(Job).where(Job.id == job_id).values(**result))
    output = Model(
        id=f"mdl_of_{job_id}",
        tenant_id=session.get_one(Job, job_id).tenant_id,
        name="output",
        source="job",
        location=f"jobs/{job_id}/1/checkpoint",
        parent_job_id=job_id,
        facts={"num_parameters": 32},
    )
    session.add(output)
    session.commit()
    return str(output.id)


def test_the_next_job_evaluates_the_earlier_forget_set(admin: ApiClient, job_body: Body, next_body: Body) -> None:
    made = admin("POST", "/v1/jobs", json=next_body).json()

    assert made["datasets"] == {**next_body["datasets"], "prior_forget_1": job_body["datasets"]["forget"]}
    events = admin("GET", f"/v1/jobs/{made['id']}/events").json()["data"]
    (message,) = [event["data"]["message"] for event in events if event["kind"] == "log"]
    assert re.fullmatch(r"prior_forget_1: a forget set of job job_\w+ is evaluated again", message)


def test_fine_tuning_evaluates_the_set_too_and_passes_it_on(
    admin: ApiClient, job_body: Body, next_body: Body, session: Session
) -> None:
    learning = {"model_id": next_body["model_id"], "spec": {"kind": "finetune"}}
    tuned = admin("POST", "/v1/jobs", json={**learning, "datasets": {"train": job_body["datasets"]["retain"]}}).json()

    made = admin("POST", "/v1/jobs", json={**next_body, "model_id": output_of(session, tuned["id"])}).json()

    for job in (tuned, made):
        assert job["datasets"]["prior_forget_1"] == job_body["datasets"]["forget"]


def test_a_deleted_forget_set_is_reported_and_left_out(admin: ApiClient, job_body: Body, next_body: Body) -> None:
    assert admin("DELETE", f"/v1/datasets/{job_body['datasets']['forget']}").status_code == 200

    made = admin("POST", "/v1/jobs", json=next_body).json()

    assert made["datasets"] == next_body["datasets"]
    events = admin("GET", f"/v1/jobs/{made['id']}/events").json()["data"]
    assert any("was deleted: it cannot be evaluated again" in event["data"].get("message", "") for event in events)


def test_a_set_that_the_user_names_again_is_not_added_twice(admin: ApiClient, job_body: Body, next_body: Body) -> None:
    same = {**next_body, "datasets": {**next_body["datasets"], "forget": job_body["datasets"]["forget"]}}

    assert admin("POST", "/v1/jobs", json=same).json()["datasets"] == same["datasets"]


def test_the_users_own_prior_set_keeps_its_name_and_is_passed_on(
    admin: ApiClient, job_body: Body, next_body: Body, session: Session
) -> None:
    own = admin.dataset([{**ROWS[0], "prompt": "Where?"}])
    body = {**next_body, "datasets": {**next_body["datasets"], "prior_forget_1": own}}

    second = admin("POST", "/v1/jobs", json=body).json()
    third = {**next_body, "model_id": output_of(session, second["id"])}
    third["datasets"] = {**next_body["datasets"], "forget": admin.dataset([{**ROWS[0], "prompt": "When?"}])}
    made = admin("POST", "/v1/jobs", json=third).json()["datasets"]

    assert second["datasets"] == {**body["datasets"], "prior_forget_2": job_body["datasets"]["forget"]}
    assert {made[f"prior_forget_{number}"] for number in (1, 2, 3)} == {
        own,
        job_body["datasets"]["forget"],
        next_body["datasets"]["forget"],
    }


def test_a_prior_forget_set_that_is_now_retained_is_evaluated_as_prior(
    admin: ApiClient, job_body: Body, next_body: Body
) -> None:
    forgotten = job_body["datasets"]["forget"]

    made = admin("POST", "/v1/jobs", json={**next_body, "datasets": {**next_body["datasets"], "retain": forgotten}})

    assert made.json()["datasets"]["prior_forget_1"] == forgotten


@pytest.mark.parametrize("carried", [True, False])
def test_a_set_that_is_unlearned_again_cannot_be_retained(
    admin: ApiClient, job_body: Body, next_body: Body, carried: bool
) -> None:
    sets = {**next_body["datasets"], "retain": job_body["datasets"]["forget"]}
    sets |= {} if carried else {"prior_forget_1": sets["retain"]}
    model_id = next_body["model_id"] if carried else job_body["model_id"]
    body = {**next_body, "model_id": model_id, "datasets": sets, "spec": {"prior_forget_sets": "unlearn"}}
    before = len(admin("GET", "/v1/jobs").json()["data"])

    errors = problem(admin("POST", "/v1/jobs", json=body), 422, "invalid_job")["errors"]

    assert [(error["pointer"], "prior_forget_1" in error["detail"]) for error in errors] == [("/datasets/retain", True)]
    assert len(admin("GET", "/v1/jobs").json()["data"]) == before


def test_an_estimate_reports_and_counts_prior_forget_sets(admin: ApiClient, job_body: Body, next_body: Body) -> None:
    joined = {**next_body, "spec": {"prior_forget_sets": "unlearn", "training": {"epochs": 200}}}
    without = {**joined, "model_id": job_body["model_id"]}

    alone, joint = (admin("POST", "/v1/estimates", json=body).json() for body in (without, joined))

    assert [warning for warning in joint["warnings"] if warning.startswith("prior_forget_1: ")]
    assert joint["flops"] > 2 * alone["flops"], "1 row to unlearn, and 3 where the earlier 2 join"

"""A job that begins with an earlier job's output carries forward what must stay forgotten."""

from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from api.store.tables import Job, Model
from tests.api.conftest import ROWS, As

Body = dict[str, Any]


@pytest.fixture
def next_body(admin: As, job_body: Body, session: Session) -> Body:
    """The body of a job over the output of one that has succeeded."""
    first = admin("POST", "/v1/jobs", json=job_body).json()["id"]
    ended = {"status": "succeeded", "verdict": "passed", "finished_at": func.now()}
    session.execute(update(Job).where(Job.id == first).values(**ended))
    output = Model(
        id="mdl_output",
        tenant_id=session.get_one(Job, first).tenant_id,
        name="output",
        source="job",
        location=f"jobs/{first}/1/checkpoint",
        parent_job_id=first,
    )
    session.add(output)
    session.commit()
    new = {"forget": admin.dataset([{**ROWS[0], "prompt": "Who?"}]), "retain": job_body["datasets"]["retain"]}
    return {**job_body, "model_id": "mdl_output", "datasets": new}


def test_the_next_job_measures_what_the_earlier_one_forgot(admin: As, job_body: Body, next_body: Body) -> None:
    made = admin("POST", "/v1/jobs", json=next_body).json()

    assert made["datasets"] == {**next_body["datasets"], "earlier_1": job_body["datasets"]["forget"]}
    events = admin("GET", f"/v1/jobs/{made['id']}/events").json()["data"]
    told = [event["data"]["message"] for event in events if event["kind"] == "log"]
    assert len(told) == 1
    assert told[0].startswith("earlier_1: what job job_")


def test_a_forget_set_that_was_deleted_is_told_and_left_out(admin: As, job_body: Body, next_body: Body) -> None:
    assert admin("DELETE", f"/v1/datasets/{job_body['datasets']['forget']}").status_code == 200

    made = admin("POST", "/v1/jobs", json=next_body).json()

    assert made["datasets"] == next_body["datasets"]
    events = admin("GET", f"/v1/jobs/{made['id']}/events").json()["data"]
    assert any("cannot be measured again" in event["data"].get("message", "") for event in events)


def test_a_set_the_user_names_again_is_not_doubled(admin: As, job_body: Body, next_body: Body) -> None:
    same = {**next_body, "datasets": {**next_body["datasets"], "forget": job_body["datasets"]["forget"]}}

    assert admin("POST", "/v1/jobs", json=same).json()["datasets"] == same["datasets"]

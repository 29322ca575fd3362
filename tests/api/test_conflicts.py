"""Forget facts in other data sets are told before a job runs: at upload, in estimates, to a retrained reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.services import conflicts
from soul_store.blobs import LocalBlobStore
from soul_store.tables import Job
from tests.api.conftest import ROWS, As, files_in, jsonl, problem

Body = dict[str, Any]
#: The second forget row under a system turn, and rows about others.
RETAIN = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": ROWS[1]["prompt"]},
            {"role": "assistant", "content": ROWS[1]["completion"]},
        ]
    },
    *(
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in ROWS[2:]
    ),
]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    conflicts._remembered.clear()


def found_in(admin: As, dataset_id: str) -> Any:
    return admin("GET", f"/v1/datasets/{dataset_id}/validation").json()["conflicts"]


def test_an_upload_is_told_which_rows_state_facts_of_the_sets_it_names(admin: As) -> None:
    forget, other = admin.dataset(ROWS[:2]), admin.dataset(ROWS[3:])
    form = {"files": {"file": ("retain.jsonl", jsonl(RETAIN))}, "data": {"compare_with": [forget, other]}}

    made = admin("POST", "/v1/datasets", **form).json()

    pairs = {one["dataset_id"]: one["pairs"] for one in found_in(admin, made["id"])}
    assert pairs == {
        forget: [{"row": 1, "other_row": 2, "layer": "question"}],
        other: [{"row": 3, "other_row": 1, "layer": "question"}],
    }
    assert found_in(admin, forget) == []


def test_content_that_is_put_is_compared_as_well(admin: As) -> None:
    forget, made = admin.dataset(ROWS[:2]), admin("POST", "/v1/datasets", json={"name": "retain"}).json()

    admin("PUT", f"/v1/datasets/{made['id']}/content", content=jsonl(RETAIN), params={"compare_with": forget})

    (found,) = found_in(admin, made["id"])
    assert (found["dataset_id"], found["num_rows"], found["pairs"][0]["row"]) == (forget, 1, 1)


def test_an_upload_that_names_no_data_set_to_compare_with_is_refused_whole(admin: As, settings_env: Any) -> None:
    before = files_in(settings_env)

    answer = admin.upload(jsonl(RETAIN), compare_with="ds_nobody")

    assert problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/compare_with"
    assert files_in(settings_env) == before


def test_sets_too_large_to_be_compared_here_are_told_to_be_left_to_the_job(
    admin: As, job_body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "_MAX_BYTES", 10)

    made = admin.upload(jsonl(RETAIN), compare_with=job_body["datasets"]["forget"]).json()
    warnings = admin("POST", "/v1/estimates", json=job_body).json()["warnings"]

    (found,) = found_in(admin, made["id"])
    assert found["num_rows"] is None
    assert "the job compares them" in found["not_compared"]
    assert any("too large to be compared here; the job compares them" in warning for warning in warnings)


def estimate(admin: As, job_body: Body, **spec: Any) -> Any:
    return admin("POST", "/v1/estimates", json={**job_body, "spec": {**job_body["spec"], **spec}}).json()


def test_an_estimate_says_what_becomes_of_forget_facts_in_the_retain_set(admin: As, job_body: Body) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN)}

    dropped, kept, refused = (estimate(admin, job_body, retain_conflicts=name) for name in ("drop", "keep", "refuse"))

    assert any(
        "left out of training, and measured as retain_dropped (retain=forget: 1=2)" in w for w in dropped["warnings"]
    )
    assert any("they are both forgotten and learned" in warning for warning in kept["warnings"])
    assert (dropped["allowed"], kept["allowed"], refused["allowed"]) == (True, True, False)
    assert refused["errors"][0]["pointer"] == "/datasets/retain"
    assert "remove them" in refused["errors"][0]["detail"]


def test_an_estimate_refuses_a_retain_set_of_which_nothing_would_be_left(admin: As, job_body: Body) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN[:1])}

    found = estimate(admin, job_body)

    assert not found["allowed"]
    assert "no row would remain to learn" in found["errors"][0]["detail"]


def test_sets_are_compared_where_the_store_of_files_has_no_local_paths(
    admin: As, job_body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN)}

    def copied(self: LocalBlobStore, key: str, path: Path) -> None:
        with self.open(key) as source:
            path.write_bytes(source.read())

    monkeypatch.setattr(LocalBlobStore, "get_local_path", lambda *_: None)
    monkeypatch.setattr(LocalBlobStore, "fetch", copied)

    assert any("left out of training" in warning for warning in estimate(admin, job_body)["warnings"])


@pytest.fixture
def retraining(admin: As, job_body: Body, session: Session) -> Callable[..., Job]:
    """Submit a job with a reference to be retrained; return the job that retrains it."""

    def submit(forget: list[Any], retain: list[Any], **spec: Any) -> Job:
        datasets = {"forget": admin.dataset(forget), "retain": admin.dataset(retain)}
        retrained = {"kind": "retrain", "model_id": job_body["model_id"]}
        body = {**job_body, "datasets": datasets, "retrained": retrained, "spec": {**job_body["spec"], **spec}}
        made = admin("POST", "/v1/jobs", json=body).json()
        return session.scalars(select(Job).where(Job.id == made["depends_on_job_id"])).one()

    return submit


def test_a_reference_is_retrained_without_forget_facts_that_the_retain_set_holds(
    retraining: Callable[..., Job],
) -> None:
    made = retraining(ROWS[:2], RETAIN)

    assert set(made.datasets) == {"train", "forget"}
    assert made.spec["retain_conflicts"] == "drop"
    assert retraining(ROWS[:2], RETAIN).id == made.id, "the same rows are left out"
    assert retraining(ROWS[1:2], RETAIN).id != made.id, "another forget set"
    kept = retraining(ROWS[:2], RETAIN, retain_conflicts="keep")
    assert (set(kept.datasets), kept.id == made.id) == ({"train"}, False)


def test_a_retain_set_without_forget_facts_has_one_reference_for_every_forget_set(
    retraining: Callable[..., Job],
) -> None:
    made = retraining(ROWS[:1], ROWS[2:])

    assert set(made.datasets) == {"train"}
    assert retraining(ROWS[1:2], ROWS[2:]).id == made.id

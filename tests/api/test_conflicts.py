"""Forget facts in other data sets are found before a job runs: at upload, in estimates, for a retrained model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.services import conflicts
from soul_store.blobs import LocalBlobStore
from soul_store.tables import Job
from tests.api.conftest import ROWS, ApiClient, files_in, jsonl, problem

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
def _empty_cache() -> None:
    conflicts._cache.clear()


def get_conflicts(admin: ApiClient, dataset_id: str) -> Any:
    return admin("GET", f"/v1/datasets/{dataset_id}/validation").json()["conflicts"]


def test_a_validation_lists_rows_that_state_facts_of_the_named_sets(admin: ApiClient) -> None:
    forget, other = admin.dataset(ROWS[:2]), admin.dataset(ROWS[3:])
    form = {"files": {"file": ("retain.jsonl", jsonl(RETAIN))}, "data": {"compare_with": [forget, other]}}

    made = admin("POST", "/v1/datasets", **form).json()

    pairs = {entry["dataset_id"]: entry["pairs"] for entry in get_conflicts(admin, made["id"])}
    assert pairs == {
        forget: [{"row": 1, "other_row": 2, "layer": "question"}],
        other: [{"row": 3, "other_row": 1, "layer": "question"}],
    }
    assert get_conflicts(admin, forget) == []


def test_streamed_content_is_compared_too(admin: ApiClient) -> None:
    forget, made = admin.dataset(ROWS[:2]), admin("POST", "/v1/datasets", json={"name": "retain"}).json()

    admin("PUT", f"/v1/datasets/{made['id']}/content", content=jsonl(RETAIN), params={"compare_with": forget})

    (entry,) = get_conflicts(admin, made["id"])
    assert (entry["dataset_id"], entry["num_rows"], entry["pairs"][0]["row"]) == (forget, 1, 1)


def test_an_upload_that_names_a_missing_data_set_is_refused(admin: ApiClient, settings_env: Any) -> None:
    before = files_in(settings_env)

    answer = admin.upload(jsonl(RETAIN), compare_with="ds_nobody")

    assert problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/compare_with"
    assert files_in(settings_env) == before


def test_large_sets_are_compared_by_the_job_and_reported(
    admin: ApiClient, job_body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "_MAX_BYTES", 10)

    made = admin.upload(jsonl(RETAIN), compare_with=job_body["datasets"]["forget"]).json()
    warnings = admin("POST", "/v1/estimates", json=job_body).json()["warnings"]

    (entry,) = get_conflicts(admin, made["id"])
    assert entry["num_rows"] is None
    assert "the job compares them" in entry["not_compared"]
    assert any("too large to be compared here; the job compares them" in warning for warning in warnings)


def estimate(admin: ApiClient, job_body: Body, **spec: Any) -> Any:
    return admin("POST", "/v1/estimates", json={**job_body, "spec": {**job_body["spec"], **spec}}).json()


def test_an_estimate_reports_forget_facts_in_the_retain_set(admin: ApiClient, job_body: Body) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN)}

    dropped, included, refused = (
        estimate(admin, job_body, retain_conflicts=name) for name in ("drop", "keep", "refuse")
    )

    assert any(
        "left out of training, and measured as retain_dropped (retain=forget: 1=2)" in w for w in dropped["warnings"]
    )
    assert any("they are both forgotten and learned" in warning for warning in included["warnings"])
    assert (dropped["allowed"], included["allowed"], refused["allowed"]) == (True, True, False)
    assert refused["errors"][0]["pointer"] == "/datasets/retain"
    assert "remove them" in refused["errors"][0]["detail"]


def test_an_estimate_refuses_a_retain_set_of_forget_facts_only(admin: ApiClient, job_body: Body) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN[:1])}

    estimated = estimate(admin, job_body)

    assert not estimated["allowed"]
    assert "no row would remain to learn" in estimated["errors"][0]["detail"]


def test_sets_are_compared_without_local_paths_in_the_store(
    admin: ApiClient, job_body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_body["datasets"] = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(RETAIN)}

    def copy(self: LocalBlobStore, key: str, path: Path) -> None:
        with self.open(key) as source:
            path.write_bytes(source.read())

    monkeypatch.setattr(LocalBlobStore, "get_local_path", lambda *_: None)
    monkeypatch.setattr(LocalBlobStore, "fetch", copy)

    assert any("left out of training" in warning for warning in estimate(admin, job_body)["warnings"])


@pytest.fixture
def retraining(admin: ApiClient, job_body: Body, session: Session) -> Callable[..., Job]:
    """Submit a job with a model to be retrained; return the job that retrains it."""

    def submit(forget: list[Any], retain: list[Any], **spec: Any) -> Job:
        datasets = {"forget": admin.dataset(forget), "retain": admin.dataset(retain)}
        retrained = {"kind": "retrain", "model_id": job_body["model_id"]}
        body = {**job_body, "datasets": datasets, "retrained": retrained, "spec": {**job_body["spec"], **spec}}
        made = admin("POST", "/v1/jobs", json=body).json()
        return session.scalars(select(Job).where(Job.id == made["depends_on_job_id"])).one()

    return submit


def test_a_model_is_retrained_without_forget_facts_in_the_retain_set(
    retraining: Callable[..., Job],
) -> None:
    made = retraining(ROWS[:2], RETAIN)

    assert set(made.datasets) == {"train", "forget"}
    assert made.spec["retain_conflicts"] == "drop"
    assert retraining(ROWS[:2], RETAIN).id == made.id, "the same rows are left out"
    assert retraining(ROWS[1:2], RETAIN).id != made.id, "another forget set"
    complete = retraining(ROWS[:2], RETAIN, retain_conflicts="keep")
    assert (set(complete.datasets), complete.id == made.id) == ({"train"}, False)


def test_one_retraining_serves_every_forget_set_without_conflicts(
    retraining: Callable[..., Job],
) -> None:
    made = retraining(ROWS[:1], ROWS[2:])

    assert set(made.datasets) == {"train"}
    assert retraining(ROWS[1:2], ROWS[2:]).id == made.id

"""The rows that a job names become arguments, which the engine parses."""

import json
from pathlib import Path

import pytest

from soul_core.__main__ import _collect_datasets, _make_parser, _parse_pairs
from soul_store.blobs import LocalBlobStore
from soul_store.tables import Artifact, Dataset, Job, Model
from tests.fixtures.blobs import put_bytes
from worker.workspace import JobInputs, Workspace


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    blob_store = LocalBlobStore(tmp_path / "blobs")
    for key in ("datasets/a.jsonl", "jobs/job_1/1/checkpoint/config.json", "jobs/job_2/1/logs/retrained.json"):
        put_bytes(blob_store, key, b"{}")
    return blob_store


KEY = "ab" * 32


def model(source: str, location: str, revision: str | None = None) -> Model:
    return Model(
        id="mdl_1", name="a model", source=source, location=location, revision=revision, digest=f"of {location}"
    )


def test_everything_a_job_names_reaches_the_engine(store: LocalBlobStore, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "scratch", "job_3")
    named = ("forget", "retain", "general", "train", "holdout", "neighbors")
    needs = JobInputs(
        model=model("hub", "owner/name", "abc"),
        models={"retrained": model("job", "jobs/job_1/1/checkpoint"), "before": model("hub", "owner/other", "def")},
        datasets={name: Dataset(id="ds_1", blob="datasets/a.jsonl", content_sha256=f"of {name}") for name in named},
        retrained_log=Artifact(
            job_id="job_2", path="logs/retrained.json", blob="jobs/job_2/1/logs/retrained.json", sha256="of the log"
        ),
        row_key=KEY,
    )

    arguments = workspace.fetch_inputs(store, Job(id="job_3", epoch=2, request_id="req_1", spec={"seed": 7}), needs)

    args = _make_parser().parse_args(arguments)
    assert (args.job_id, args.attempt, args.request_id) == ("job_3", 2, "req_1")
    assert (args.model, args.revision, args.model_name) == ("owner/name", "abc", "a model")
    assert json.loads(args.spec.read_text()) == {"seed": 7}
    sets = _collect_datasets(args)
    assert set(sets) == set(named)
    assert all(path.exists() for path in sets.values())
    others = _parse_pairs(args.compare, "--compare", "MODEL")
    assert others["before"] == "owner/other@def"
    assert (Path(others["retrained"]) / "config.json").exists()
    assert args.retrained_log.name == "job_2-retrained.json", "the report names the job it is from"
    assert args.retrained_log.exists()


def test_every_input_reaches_the_engine_with_its_digest(store: LocalBlobStore, tmp_path: Path) -> None:
    needs = JobInputs(
        model=model("local", "/models/a"),
        models={"retrained": model("job", "jobs/job_1/1/checkpoint")},
        datasets={"forget": Dataset(id="ds_1", blob="datasets/a.jsonl", content_sha256="of forget")},
        retrained_log=Artifact(
            job_id="job_2", path="logs/retrained.json", blob="jobs/job_2/1/logs/retrained.json", sha256="of the log"
        ),
        row_key=KEY,
    )

    args = _make_parser().parse_args(
        Workspace(tmp_path / "scratch", "job_3").fetch_inputs(store, Job(id="job_3", epoch=1, spec={}), needs)
    )

    assert args.model_digest == "of /models/a"
    assert args.compare_digest == ["retrained=of jobs/job_1/1/checkpoint"]
    assert args.dataset_sha256 == ["forget=of forget"]
    assert args.retrained_log_sha256 == "of the log"
    assert args.row_key.read_text() == KEY
    assert args.row_key.stat().st_mode & 0o077 == 0, "no other account reads the tenant's key"


def test_inputs_are_fetched_again_for_every_attempt(store: LocalBlobStore, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "scratch", "job_3")
    workspace.inputs.mkdir(parents=True)
    (workspace.inputs / "left.jsonl").write_text("of another attempt")

    workspace.fetch_inputs(store, Job(id="job_3", epoch=1, spec={}), JobInputs(model("local", "/m"), {}, {}, None, KEY))

    assert sorted(path.name for path in workspace.inputs.iterdir()) == ["row-digests.key", "spec.json"]

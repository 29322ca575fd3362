"""Retrained models and evaluations end to end: from the request through queue, worker and engine to the report."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from soul_cli.client import SoulClient
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.worker.conftest import Fleet

SPEC = {
    "optimizer": {"kind": "sophia", "lr": 3e-4},
    "training": {"steps": 6},
    "evaluation": {"metrics": ["probability"], "bootstrap": 20},
    "attacks": [],
}


@dataclass
class Case:
    """What a user has: a model and the data sets."""

    model_id: str
    datasets: dict[str, str]


@pytest.fixture
def case(client: SoulClient, fleet: Fleet, taught_model_dir: Path, tmp_path: Path) -> Case:
    fleet.start_worker()
    fleet.start_maintenance()
    countries = list(COUNTRIES)
    sets = {"forget": countries[:2], "retain": countries[2:]}
    datasets = {
        name: client.add_dataset(write_rows(tmp_path / f"{name}.jsonl", part)).id for name, part in sets.items()
    }
    return Case(client.add_model("local", str(taught_model_dir), name="tiny").id, datasets)


def probability(report: dict[str, Any], model: str, of: str = "forget") -> float:
    value: float = report["models"][model]["sets"][of]["probability"]["value"]
    return value


def test_a_retrained_model_is_made_once_compared_and_its_log_used_again(
    client: SoulClient, case: Case, fleet: Fleet
) -> None:
    retrain = {"kind": "retrain", "model_id": case.model_id, "training": {"steps": 4}}

    job = client.submit(model_id=case.model_id, datasets=case.datasets, spec=SPEC, retrained=retrain)
    retraining = client.wait(str(job.depends_on_job_id))
    job = client.wait(job.id)

    assert (retraining.kind, retraining.status) == ("finetune", "succeeded"), fleet.log("worker")
    assert retraining.finished_at is not None
    assert job.started_at is not None
    assert (job.status, job.started_at >= retraining.finished_at) == ("succeeded", True), fleet.log("worker")
    report = client.get_report(job.id)
    assert list(report["models"]) == ["base", "unlearned", "retrained"]
    own = client.get_report(retraining.id)["models"]["finetuned"]["sets"]["train"]["probability"]["value"]
    parts = [report["models"]["retrained"]["sets"][name]["probability"] for name in ("retain", "retain_held_out")]
    trained = [value for part in parts for value in part["per_example"]]
    assert len(trained) == 8
    assert sum(trained) / 8 == pytest.approx(own, rel=1e-5), "it is the retrained model"

    # the same retrained model is requested again: it exists already
    again = client.submit(model_id=case.model_id, datasets=case.datasets, spec=SPEC, retrained=retrain)
    assert (again.depends_on_job_id, again.models) == (retraining.id, job.models)
    client.cancel(again.id)

    # an evaluation of the output, compared with the input and with the log of the retrained model
    unlearned = client.add_model("job", job.id)
    evaluation = client.evaluate(
        model_id=unlearned.id,
        models={"before": case.model_id},
        datasets={"forget": case.datasets["forget"]},
        spec={"evaluation": SPEC["evaluation"], "attacks": []},
        retrained={"kind": "log", "job_id": job.id},
    )
    evaluation = client.wait(evaluation.id)

    assert evaluation.status == "succeeded", (evaluation.status_reason, fleet.log("worker"))
    evaluation_report = client.get_report(evaluation.id)
    assert evaluation_report["model"]["digest"] == unlearned.digest, "the manifest has the digest of the files"
    assert probability(evaluation_report, "evaluated") == pytest.approx(probability(report, "unlearned"), rel=1e-4)
    assert probability(evaluation_report, "before") == pytest.approx(probability(report, "base"), rel=1e-4)
    assert probability(evaluation_report, "retrained") == probability(report, "retrained")
    assert evaluation_report["retrained"]["from_log"] is True
    paths = {artifact.path for artifact in client.list_artifacts(evaluation.id)}
    assert "logs/evaluated.json" in paths
    assert not any(path.startswith("checkpoint/") for path in paths), "nothing was changed"
    assert [listed.id for listed in client.list_evaluations()] == [evaluation.id]
    assert client.get_report_pdf(evaluation.id).startswith(b"%PDF-")


def test_a_failed_retraining_fails_the_job_that_waits_for_it(
    client: SoulClient, case: Case, taught_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(taught_model_dir, tmp_path / "gone")
    gone = client.add_model("local", str(folder), name="gone").id
    shutil.rmtree(folder)

    retrained = {"kind": "retrain", "model_id": gone}
    job = client.submit(model_id=case.model_id, datasets=case.datasets, spec=SPEC, retrained=retrained)
    job = client.wait(job.id)

    assert job.status == "failed"
    assert job.started_at is None
    assert job.status_reason is not None
    assert job.status_reason["code"] == "retraining_failed"
    assert str(job.depends_on_job_id) in job.status_reason["message"]

"""A job reads the inputs that were registered: if a file changed since, the job fails and names it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from soul_cli.client import SoulClient
from soul_core.models.files import inspect_model
from soul_store.blobs import LocalBlobStore, get_blob_store
from soul_store.tables import Dataset
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows
from tests.worker.conftest import Fleet

SPEC = {"training": {"steps": 2}, "evaluation": {"metrics": ["probability"], "bootstrap": 0}, "attacks": []}


@pytest.fixture
def datasets(client: SoulClient, fleet: Fleet, tmp_path: Path) -> dict[str, str]:
    fleet.start_worker()
    fleet.start_maintenance()
    countries = list(COUNTRIES)
    sets = {"forget": countries[:2], "retain": countries[2:]}
    return {name: client.add_dataset(write_rows(tmp_path / f"{name}.jsonl", part)).id for name, part in sets.items()}


def run_to_failure(client: SoulClient, fleet: Fleet, **body: Any) -> dict[str, Any]:
    """Submit a job that cannot succeed and return why it failed."""
    job = client.wait(client.submit(spec=SPEC, **body).id)
    assert (job.status, job.attempt) == ("failed", 0), (job.status, fleet.log("worker"))
    assert job.status_reason is not None
    assert job.status_reason["retryable"] is False
    return job.status_reason


def test_a_job_on_inputs_that_changed_fails_and_names_both_digests(
    client: SoulClient, fleet: Fleet, datasets: dict[str, str], taught_model_dir: Path, tmp_path: Path, session: Session
) -> None:
    folder = shutil.copytree(taught_model_dir, tmp_path / "model")
    model, other = client.add_model("local", str(folder)), client.add_model("local", str(taught_model_dir))
    make_untrained_model(folder, seed=7)
    now = inspect_model(folder).digest

    reason = run_to_failure(client, fleet, model_id=model.id, datasets=datasets)
    compared_reason = run_to_failure(
        client,
        fleet,
        model_id=other.id,
        datasets=datasets,
        retrained={"kind": "model", "model_id": model.id},
    )

    assert reason["code"] == compared_reason["code"] == "bad_model"
    for each_reason in (reason, compared_reason):
        assert "changed since it was registered" in each_reason["message"]
        assert {model.digest, now} <= {detail.split(": ")[1] for detail in each_reason["details"]}
    # registered again, it is another model, and the job runs
    again = client.add_model("local", str(folder))
    assert again.digest == now
    job = client.wait(client.submit(model_id=again.id, datasets=datasets, spec=SPEC).id)
    assert (job.status, client.get_report(job.id)["model"]["digest"]) == ("succeeded", now), fleet.log("worker")

    # the stored rows of a data set
    store = get_blob_store()
    assert isinstance(store, LocalBlobStore)
    blob = session.scalar(select(Dataset.blob).where(Dataset.id == datasets["forget"]))
    assert blob is not None
    path = store.root / blob
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**row, "completion": "Something else."}) + "\n")

    reason = run_to_failure(client, fleet, model_id=other.id, datasets=datasets)

    assert reason["code"] == "bad_data"
    assert reason["message"] == "forget set: the stored file differs from the upload; upload the data set again"

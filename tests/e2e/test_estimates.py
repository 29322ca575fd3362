"""An estimate learns from a real job."""

from pathlib import Path

from soul_cli.client import SoulClient
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.worker.conftest import Fleet


def test_after_a_job_the_estimate_of_the_same_job_contains_what_it_took(
    client: SoulClient, fleet: Fleet, taught_model_dir: Path, tmp_path: Path
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    countries = list(COUNTRIES)
    body = {
        "model_id": client.add_model("local", str(taught_model_dir), name="tiny").id,
        "datasets": {
            "forget": client.add_dataset(write_rows(tmp_path / "forget.jsonl", countries[:2])).id,
            "retain": client.add_dataset(write_rows(tmp_path / "retain.jsonl", countries[2:])).id,
        },
        "spec": {"training": {"steps": 20}, "evaluation": {"max_new_tokens": 8}, "attacks": [{"kind": "quantize"}]},
    }
    before = client.estimate(**body)
    job = client.submit(**body)
    list(client.stream_events(job.id))
    job, report = client.get_job(job.id), client.get_report(job.id)

    after = client.estimate(**body)

    assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
    assert (before.based_on.source, after.based_on.source) == ("constants", "worker_kind")
    assert after.based_on.num_jobs == 1
    low, high = after.seconds_interval
    assert low < sum(report["run"]["seconds"].values()) < high
    lowest_bytes, highest_bytes = after.peak_memory_bytes_interval
    assert lowest_bytes < report["run"]["peak_memory_bytes"] < highest_bytes

"""A job through a real worker process."""

from tests.worker.conftest import Desk, Fleet


def test_a_job_runs_to_its_artifacts(fleet: Fleet, desk: Desk) -> None:
    fleet.start_worker()
    fleet.start_keeper()
    job_id = desk.submit()

    job = desk.wait_end(job_id)

    assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
    assert job.verdict in {"passed", "failed", "inconclusive"}
    assert desk.statuses(job_id) == ["queued", "running", "succeeded"]

"""The keeper outlives the servers it talks to, and blames nobody for their absence."""

import time

from tests.servers import Servers
from tests.worker.conftest import Desk, Fleet
from worker.maintenance import DatabaseAvailability


def test_a_database_away_for_longer_than_a_lease_costs_a_living_worker_nothing(
    fleet: Fleet, desk: Desk, servers: Servers
) -> None:
    fleet.start_worker()
    keeper = fleet.start_keeper()
    job_id = desk.submit(training={"steps": 400}, optimizer={"kind": "sophia", "lr": 1e-6})
    desk.wait_step(job_id, 5)

    servers.postgres.stop()
    time.sleep(4)  # two leases
    servers.postgres.start()
    job = desk.wait_end(job_id)

    assert (job.status, job.epoch, job.attempt) == ("succeeded", 1, 0), (job.status_reason, fleet.log("worker"))
    assert desk.statuses(job_id) == ["queued", "running", "succeeded"]
    assert keeper.poll() is None
    assert fleet.log("keeper").count("is away") == 1, "an absence is one line"
    assert fleet.log("keeper").count("are back") == 1


def test_a_job_submitted_while_the_broker_is_away_runs_when_it_is_back(
    fleet: Fleet, desk: Desk, servers: Servers
) -> None:
    fleet.start_worker()
    keeper = fleet.start_keeper()
    assert desk.wait_end(desk.submit()).status == "succeeded"  # everybody is up
    servers.valkey.stop()
    job_id = desk.submit()
    time.sleep(1)
    servers.valkey.start()

    job = desk.wait_end(job_id)

    assert (job.status, job.epoch) == ("succeeded", 1)
    assert keeper.poll() is None


def test_after_an_absence_of_the_database_living_workers_have_a_leases_time_to_beat() -> None:
    now = [0.0]
    absence = DatabaseAvailability(15, clock=lambda: now[0])

    heard = []
    for moment, away in ((100, False), (114, False), (115, False), (200, True), (300, False), (316, False)):
        now[0] = moment
        if away:
            absence.mark_unavailable()
        else:
            heard.append(absence.is_stable())

    assert heard == [False, False, True, False, True]

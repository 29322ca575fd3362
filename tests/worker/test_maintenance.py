"""The maintenance process survives outages of its servers, and requeues no job because of them."""

import time

from tests.servers import Servers
from tests.worker.conftest import Desk, Fleet
from worker.maintenance import DatabaseAvailability


def test_a_database_outage_longer_than_a_lease_requeues_no_job(fleet: Fleet, desk: Desk, servers: Servers) -> None:
    fleet.start_worker()
    maintenance = fleet.start_maintenance()
    job_id = desk.submit(training={"steps": 400}, optimizer={"kind": "sophia", "lr": 1e-6})
    desk.wait_step(job_id, 5)

    servers.postgres.stop()
    time.sleep(4)  # two leases
    servers.postgres.start()
    job = desk.wait_end(job_id)

    assert (job.status, job.epoch, job.attempt) == ("succeeded", 1, 0), (job.status_reason, fleet.log("worker"))
    assert desk.statuses(job_id) == ["queued", "running", "succeeded"]
    assert maintenance.poll() is None
    assert fleet.log("maintenance").count("is unavailable; retrying") == 1, "an outage is one line"
    assert fleet.log("maintenance").count("are available again") == 1


def test_a_job_submitted_during_a_broker_outage_runs_after_it(fleet: Fleet, desk: Desk, servers: Servers) -> None:
    fleet.start_worker()
    maintenance = fleet.start_maintenance()
    assert desk.wait_end(desk.submit()).status == "succeeded"  # all processes are ready
    servers.valkey.stop()
    job_id = desk.submit()
    time.sleep(1)
    servers.valkey.start()

    job = desk.wait_end(job_id)

    assert (job.status, job.epoch) == ("succeeded", 1)
    assert maintenance.poll() is None


def test_after_an_outage_workers_have_one_lease_period_to_send_a_heartbeat() -> None:
    now = [0.0]
    availability = DatabaseAvailability(15, clock=lambda: now[0])

    answers = []
    for moment, is_unavailable in ((100, False), (114, False), (115, False), (200, True), (300, False), (316, False)):
        now[0] = moment
        if is_unavailable:
            availability.mark_unavailable()
        else:
            answers.append(availability.is_stable())

    assert answers == [False, False, True, False, True]

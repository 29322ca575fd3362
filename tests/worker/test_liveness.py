"""The health check of a container sees whether the main loop of its process runs."""

import os
import time

import pytest
from sqlalchemy.orm import Session

from soul_store.settings import Settings
from tests.worker.conftest import Fleet
from worker import liveness


def test_a_process_that_reports_is_alive(settings_env: Settings) -> None:
    liveness.report("worker")

    assert liveness.main(["worker"]) == 0


@pytest.mark.parametrize("process", liveness.PROCESSES)
def test_a_process_that_never_reported_is_not_alive(
    settings_env: Settings, process: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert liveness.main([process]) == 1
    assert "last reported never" in capsys.readouterr().err


def test_a_process_that_hangs_is_not_alive(settings_env: Settings) -> None:
    liveness.report("worker")
    old = time.time() - 120
    os.utime(liveness._get_file("worker"), (old, old))

    assert liveness.main(["worker"]) == 1


def test_a_process_that_ended_in_order_leaves_no_file(settings_env: Settings) -> None:
    liveness.report("maintenance")

    liveness.clear("maintenance")

    assert list(settings_env.scratch_dir.iterdir()) == []


def test_the_maintenance_process_reports_while_the_database_is_unavailable(
    session: Session, fleet: Fleet, settings_env: Settings
) -> None:
    fleet.environment["SOUL_DATABASE_URL"] = "postgresql+psycopg://soul@127.0.0.1:1/nothing"
    fleet.start_maintenance()

    deadline = time.monotonic() + 20
    while liveness.get_age_seconds("maintenance") is None and time.monotonic() < deadline:
        time.sleep(0.1)

    assert liveness.main(["maintenance"]) == 0

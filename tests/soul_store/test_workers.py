"""The accelerators that workers record."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from soul_store import workers
from soul_store.tables import Worker
from soul_store.workers import EXPIRY


def expire(session: Session, name: str) -> None:
    session.execute(update(Worker).where(Worker.name == name).values(seen_at=Worker.seen_at - EXPIRY))


def test_without_workers_the_accelerator_is_unknown(session: Session) -> None:
    assert workers.get_best_accelerator(session) is None


def test_the_fastest_accelerator_of_the_fleet_counts(session: Session) -> None:
    workers.record(session, name="a", accelerator="cpu")
    assert workers.get_best_accelerator(session) == "cpu"

    workers.record(session, name="b", accelerator="cuda")
    assert workers.get_best_accelerator(session) == "cuda"


def test_a_worker_that_no_longer_reports_does_not_count(session: Session) -> None:
    workers.record(session, name="a", accelerator="cuda")
    workers.record(session, name="b", accelerator="cpu")
    expire(session, "a")

    assert workers.get_best_accelerator(session) == "cpu"


def test_a_report_renews_a_worker_and_deletes_stopped_ones(session: Session) -> None:
    for name in ("a", "b"):
        workers.record(session, name=name, accelerator="cpu")
        expire(session, name)

    workers.record(session, name="a", accelerator="cuda")

    assert session.execute(select(Worker.name, Worker.accelerator)).all() == [("a", "cuda")]
    assert workers.get_best_accelerator(session) == "cuda"

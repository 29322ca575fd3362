"""`soul doctor` finds what is broken, names the remedy, and fails only where the service cannot work."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from soul_cli.doctor import machine
from soul_cli.doctor.check import CheckStatus, report_ok, run_checks
from soul_cli.embedded.ports import find_free_port
from soul_cli.main import app
from soul_store import workers
from soul_store.placement import WorkerDevice
from soul_store.settings import Settings, get_settings

Doctor = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run the command and return its checks by name; its exit code must fit to them."""
    monkeypatch.setenv("SOUL_URL", f"http://127.0.0.1:{find_free_port()}")

    def run(*options: str) -> dict[str, dict[str, Any]]:
        get_settings.cache_clear()
        result = CliRunner().invoke(app, ["doctor", "--json", "--data", str(tmp_path / "data"), *options])
        answer = json.loads(result.stdout)
        checks = {check["name"]: check for check in answer["checks"]}
        has_error = any(check["status"] == "error" for check in checks.values())
        assert (answer["ok"], result.exit_code) == (not has_error, 10 if has_error else 0)
        assert all(check["remedy"] for check in checks.values() if check["status"] in {"warning", "error"})
        return checks

    return run


def test_a_working_service_has_no_error(session: Session, doctor: Doctor) -> None:
    workers.record(session, name="here", device=WorkerDevice(accelerator="cpu", machine="a CPU"))
    session.commit()

    checks = doctor("--port", str(find_free_port()))

    assert {name for name, check in checks.items() if check["status"] == "error"} == set()
    for name in ("python", "database", "workers", "clock", "broker", "file store", "embedded servers", "bf16"):
        assert checks[name]["status"] in {"ok", "warning"}, checks[name]
    assert "is current" in checks["database"]["detail"]


def test_a_service_without_workers_is_an_error(session: Session, doctor: Doctor) -> None:
    assert doctor()["workers"]["status"] == "error"


def test_servers_that_are_away_are_errors_each_with_its_own_setting(
    settings_env: Settings, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = find_free_port()
    monkeypatch.setenv("SOUL_DATABASE_URL", f"postgresql+psycopg://soul@127.0.0.1:{port}/soul")
    monkeypatch.setenv("SOUL_REDIS_URL", f"redis://127.0.0.1:{port}/0")
    monkeypatch.setenv("SOUL_BLOBS_URL", "file:///proc/no/such/folder")

    checks = doctor()

    remedies = {"database": "SOUL_DATABASE_URL", "broker": "SOUL_REDIS_URL", "file store": "SOUL_BLOBS_URL"}
    for name, setting in remedies.items():
        assert checks[name]["status"] == "error", checks[name]
        assert setting in checks[name]["remedy"]
    assert checks["clock"]["status"] == "error", "a check that raises is a finding, and the others still run"


def test_a_schema_of_another_version_is_an_error(session: Session, doctor: Doctor, database: Any) -> None:
    from sqlalchemy import text

    current = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    session.commit()
    try:
        check = doctor()["database"]
    finally:
        session.execute(text("UPDATE alembic_version SET version_num = :current"), {"current": current})
        session.commit()

    assert check["status"] == "error"
    assert "schema 0001" in check["detail"]
    assert "python -m migrations.run" in check["remedy"]


def test_without_a_service_its_checks_are_skipped(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOUL_DATABASE_URL", raising=False)

    checks = doctor()

    assert {checks[name]["status"] for name in ("database", "workers", "clock", "broker", "file store")} == {"skipped"}


def test_a_key_that_others_can_read_is_an_error(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "connection.json").write_text('{"url": "http://127.0.0.1:1", "api_key": "soul_x"}')
    (folder / "connection.json").chmod(0o644)

    check = doctor()["data folder"]

    assert check["status"] == "error"
    assert "chmod 600" in check["remedy"]


@pytest.mark.parametrize(
    ("free_bytes", "status"), [(1 << 20, "error"), (5 << 30, "warning"), (100 << 30, "ok")], ids=str
)
def test_little_disk_space_is_a_warning_and_almost_none_an_error(
    free_bytes: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))

    assert machine.check_disk("disk", tmp_path / "not" / "yet").status == status


def test_a_hub_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{find_free_port()}")

    result = machine.check_hub_network()

    assert result.status is CheckStatus.WARNING
    assert "HF_ENDPOINT" in result.remedy


def test_a_check_that_raises_does_not_end_the_others() -> None:
    def raise_error() -> Any:
        raise RuntimeError("no such luck\nsecond line")

    results = run_checks([("broken", raise_error), ("fine", lambda: report_ok("fine", "yes"))])

    assert [result.status for result in results] == [CheckStatus.ERROR, CheckStatus.OK]
    assert results[0].detail.endswith("RuntimeError: no such luck")


def test_for_people_each_finding_is_a_line_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    monkeypatch.delenv("SOUL_DATABASE_URL", raising=False)

    result = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path / "data"), "--port", str(find_free_port())])

    assert "skipped  database" in result.stdout
    assert "to do: start `soul serve`" in result.stdout

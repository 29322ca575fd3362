"""`soul backup` and `soul restore`: everything is there again elsewhere; nothing is overwritten or half restored."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from migrations.run import upgrade
from soul_cli.client import SoulClient
from soul_cli.embedded import backup as archives
from soul_cli.embedded.account import Account
from soul_cli.embedded.data_folder import UNFINISHED_RESTORE, lock_folder
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.main import app
from soul_store import job_leases, jobs, models
from soul_store.blobs import LocalBlobStore
from soul_store.database import make_engine
from soul_store.job_leases import JobLease
from soul_store.tables import ApiKey, Job
from tests.fixtures.blobs import put_bytes
from tests.soul_cli.test_serve import Serving, serving

__all__ = ["serving"]

WEIGHTS = bytes(range(256)) * 2000
REPORT = b'{"verdict": "passed"}'


@dataclass
class SourceFolder:
    """The data folder of a service with a finished and a queued job."""

    data: Path
    finished_id: str = ""
    queued_id: str = ""


@contextmanager
def running_database(data: Path) -> Iterator[Postgres]:
    """Run the folder's database as `soul serve` does: under the folder's lock."""
    account = Account.choose()
    with lock_folder(data):
        (data / "logs").mkdir(exist_ok=True)
        runtime = make_runtime_folder(data, account)
        postgres = Postgres(data, runtime=runtime, log=data / "logs" / "postgres.log", account=account, durable=False)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()


def insert_job(session: Session, key: ApiKey, model_id: str, name: str) -> Job:
    return jobs.insert(
        session,
        tenant_id=key.tenant_id,
        created_by=key.id,
        name=name,
        model_id=model_id,
        datasets={},
        spec={},
        spec_sha256="0",
    )


def populate(source: SourceFolder, url: str) -> None:
    """Write what a service has after a job has finished, and a job that is not due before tomorrow."""
    from api.services.keys import ensure_admin_key

    upgrade(url)
    store = LocalBlobStore(source.data / "blobs")
    engine = make_engine(url)
    with Session(engine) as session, session.begin():
        secret = ensure_admin_key(session)
        key = session.scalars(select(ApiKey)).one()
        model = models.insert(session, tenant_id=key.tenant_id, actor=key.id, name="m", source="local", location="/m")
        finished, queued = (insert_job(session, key, model.id, name) for name in ("finished", "queued"))
        queued.next_attempt_at = datetime.now(UTC) + timedelta(days=1)
        job = job_leases.claim(session, finished.id, worker="w", lease_seconds=60)
        assert job is not None
        files = {"checkpoint/model.safetensors": WEIGHTS, "report.json": REPORT}
        stored = {path: put_bytes(store, f"jobs/{job.id}/1/{path}", content) for path, content in files.items()}
        made = [job_leases.NewArtifact(path, blob.key, blob.size_bytes, blob.sha256) for path, blob in stored.items()]
        job_leases.succeed(
            session,
            JobLease(job.id, job.epoch),
            verdict="passed",
            report_blob=stored["report.json"].key,
            artifacts=made,
            usage={},
        )
        source.finished_id, source.queued_id = finished.id, queued.id
    engine.dispose()
    connection = {"url": "http://127.0.0.1:1", "api_key": secret, "pid": 1}
    (source.data / "connection.json").write_text(json.dumps(connection))
    (source.data / "blobs" / ".unfinished").mkdir(exist_ok=True)
    (source.data / "blobs" / ".unfinished" / "half").write_text("a file that is being written")


@pytest.fixture(scope="module")
def folders() -> Iterator[Path]:
    """A folder that the account of the servers can enter."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="soul-backup-"))
    folder.chmod(0o711)
    yield folder
    rmtree(folder)


@pytest.fixture(scope="module")
def source(folders: Path) -> SourceFolder:
    made = SourceFolder(folders / "source")
    made.data.mkdir(mode=0o711)
    (made.data / "blobs").mkdir()
    with running_database(made.data) as postgres:
        populate(made, postgres.make_url())
    return made


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def archive(source: SourceFolder, folders: Path) -> Path:
    """A backup of the service that stands still."""
    path = folders / "cold.tar"
    result = run("backup", path, "--data", source.data)
    assert result.exit_code == 0, result.output
    return path


def test_jobs_and_artifacts_of_a_running_service_are_there_again_after_a_restore(
    source: SourceFolder, folders: Path, serving: Serving, tmp_path: Path
) -> None:
    with running_database(source.data):
        backup = run("backup", folders, "--data", source.data, "--json")
    assert backup.exit_code == 0, backup.output
    written = Path(json.loads(backup.stdout)["file"])

    restored = run("restore", written, "--data", serving.data)

    assert restored.exit_code == 0, restored.output
    assert written.stat().st_mode & 0o777 == 0o600
    serving.read_until_ready(serving.start("--port", "0"))
    connection = serving.read_connection()
    with SoulClient(connection["url"], connection["api_key"]) as client:
        assert {job.id: job.status for job in client.list_jobs()} == {
            source.finished_id: "succeeded",
            source.queued_id: "queued",
        }
        (weights,) = [item for item in client.list_artifacts(source.finished_id) if item.path.endswith("safetensors")]
        client.download(source.finished_id, tmp_path / "out")
    assert (tmp_path / "out" / weights.path).read_bytes() == WEIGHTS


def test_a_backup_has_no_file_that_is_being_written(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()

    assert names[-1] == "digests.json"
    assert not [name for name in names if ".unfinished" in name]


def test_a_backup_never_overwrites(archive: Path, source: SourceFolder) -> None:
    before = archive.read_bytes()

    result = run("backup", archive, "--data", source.data)

    assert (result.exit_code, archive.read_bytes()) == (2, before)
    assert "exists" in result.output


def test_a_restore_never_overwrites(archive: Path, source: SourceFolder) -> None:
    result = run("restore", archive, "--data", source.data)

    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert (source.data / "postgres").is_dir()


@pytest.mark.parametrize("damage", ["cut", "changed", "not an archive"])
def test_a_damaged_backup_is_refused_before_anything_is_written(archive: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "changed":
        content[content.index(WEIGHTS[:512]) + 100] ^= 1
    else:
        content = bytearray(b"no archive at all")
    copy = tmp_path / "copy.tar"
    copy.write_bytes(content)

    result = run("restore", copy, "--data", tmp_path / "new")

    assert result.exit_code == 9, result.output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": "9999"}, "schema 9999 is newer"),
        ({"format": 2}, "in another format"),
        ({"postgres_major": 99}, "PostgreSQL 99"),
    ],
)
def test_a_backup_of_a_newer_version_is_refused_with_the_remedy(
    archive: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    copy = tmp_path / "newer.tar"
    with tarfile.open(archive) as old, copy.open("wb") as file, tarfile.open(fileobj=file, mode="w") as new:
        writer = archives._ArchiveWriter(new)
        for name in old.getnames()[:-1]:
            content = old.extractfile(name)
            assert content is not None
            text = content.read()
            writer.add_bytes(name, json.dumps(json.loads(text) | changes).encode() if name == "backup.json" else text)
        writer.add_bytes("digests.json", json.dumps(writer.digests).encode())

    result = run("restore", copy, "--data", tmp_path / "new")

    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
    assert not (tmp_path / "new").exists()


def test_a_restore_that_did_not_end_is_never_served_and_can_be_repeated(archive: Path, serving: Serving) -> None:
    serving.data.mkdir(exist_ok=True)
    serving.data.chmod(0o711)
    (serving.data / UNFINISHED_RESTORE).touch()
    (serving.data / "blobs").mkdir()

    refused, _ = serving.start("--port", "0").communicate(timeout=30)
    repeated = run("restore", archive, "--data", serving.data)

    assert "did not end" in refused
    assert repeated.exit_code == 0, repeated.output
    assert not (serving.data / UNFINISHED_RESTORE).exists()


def test_a_folder_without_a_database_is_named(tmp_path: Path) -> None:
    result = run("backup", tmp_path / "b.tar", "--data", tmp_path / "nothing")

    assert result.exit_code == 2
    assert "has no embedded database" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []

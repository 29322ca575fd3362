"""A tenant with a tiny model and its data sets, and real worker and maintenance processes."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from soul_core.atomic_io import compute_sha256
from soul_core.data import read_rows, write_canonical
from soul_core.log_config import configure_logging
from soul_core.spec import JobSpec
from soul_store import datasets, job_queries, jobs, keys, models
from soul_store.blobs import get_blob_store
from soul_store.jobs import Scheduling
from soul_store.settings import Settings
from soul_store.tables import Artifact, Job, JobEvent
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.fixtures.forked_engines import SOCKET_VARIABLE

TERMINAL = {"succeeded", "failed", "cancelled"}
#: A job that takes long enough to be disturbed.
LONG = {
    "optimizer": {"kind": "sophia", "lr": 1e-5},
    "training": {"steps": 240, "checkpoint_every": 20},
    "evaluation": {"max_new_tokens": 4, "bootstrap": 10},
    "attacks": (),
}


@pytest.fixture(scope="session")
def undisturbed_sha256(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the same run without interruption and without the service."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "spec.json").write_text(JobSpec.model_validate(LONG).model_dump_json())
    countries = list(COUNTRIES)
    forget = write_rows(folder / "forget.jsonl", countries[:2])
    retain = write_rows(folder / "retain.jsonl", countries[2:])
    command = [sys.executable, "-m", "soul_core", str(folder / "spec.json"), "--model", str(taught_model_dir)]
    command += ["--forget", str(forget), "--retain", str(retain), "--out", str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return compute_sha256(folder / "out" / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """Tests that run a task in their own process log as a worker does."""
    configure_logging(level="info", output_format="console")


@dataclass
class Fleet:
    """Processes of the service, killed after the test."""

    environment: dict[str, str]
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "worker",
            sys.executable,
            "-m",
            "celery",
            "-A",
            "worker.celery_app",
            "worker",
            "--concurrency",
            "1",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        )

    def start_maintenance(self) -> subprocess.Popen[bytes]:
        return self._start("maintenance", sys.executable, "-m", "worker.maintenance")

    def use_production_engine(self) -> None:
        """Let workers start `python -m soul_core` as they do in production: a new process, nothing imported."""
        del self.environment[SOCKET_VARIABLE]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process with all of its children."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        self.processes.append(process)
        return process


@pytest.fixture
def fleet(settings_env: Settings, engine_environment: dict[str, str], tmp_path: Path, servers: Any) -> Iterator[Fleet]:
    subprocess.run(  # an empty broker
        [sys.executable, "-c", f"import redis; redis.Redis(unix_socket_path='{servers.valkey.socket}').flushall()"],
        check=True,
    )
    environment = {**os.environ, **engine_environment, "C_FORCE_ROOT": "1", "OMP_NUM_THREADS": "1"}
    running = Fleet(environment, tmp_path)
    yield running
    running.stop()


@dataclass
class Desk:
    """A tenant that submits jobs and reads them."""

    database: Engine
    tenant_id: str
    key_id: str
    model_id: str
    datasets: dict[str, str]

    def submit(self, **overrides: Any) -> str:
        return self.submit_scheduled(Scheduling(), **overrides)

    def submit_scheduled(self, scheduling: Scheduling, **overrides: Any) -> str:
        spec = JobSpec.model_validate(
            {
                "optimizer": {"kind": "sophia", "lr": 3e-4},
                "training": {"steps": 20, "checkpoint_every": 5},
                "evaluation": {"max_new_tokens": 8},
                "attacks": (),
                **overrides,
            }
        )
        with Session(self.database) as session, session.begin():
            job = jobs.insert(
                session,
                tenant_id=self.tenant_id,
                created_by=self.key_id,
                name="test",
                model_id=self.model_id,
                datasets=self.datasets,
                spec=spec.model_dump(mode="json"),
                spec_sha256=spec.compute_sha256(),
                scheduling=scheduling,
            )
            return job.id

    def cancel(self, job_id: str) -> None:
        with Session(self.database) as session, session.begin():
            jobs.request_cancel(session, session.get_one(Job, job_id), self.key_id)

    def job(self, job_id: str) -> Job:
        with Session(self.database) as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[JobEvent]:
        with Session(self.database) as session:
            return job_queries.list_events(session, job_id, 0)

    def statuses(self, job_id: str) -> list[str]:
        return [event.data["status"] for event in self.events(job_id) if event.kind == "status"]

    def weights_sha256(self, job_id: str) -> str:
        with Session(self.database) as session:
            made = session.scalars(
                select(Artifact).where(Artifact.job_id == job_id, Artifact.path == "checkpoint/model.safetensors")
            ).one()
        with get_blob_store().open(made.blob) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    def wait(self, job_id: str, until: Callable[[Job], bool], *, seconds: float = 240) -> Job:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if until(job):
                return job
            time.sleep(0.05)
        pytest.fail(f"{job.status} in phase {job.phase}, reason {job.status_reason}, progress {job.progress}")

    def wait_end(self, job_id: str, *, seconds: float = 240) -> Job:
        return self.wait(job_id, lambda job: job.status in TERMINAL, seconds=seconds)

    def wait_step(self, job_id: str, step: int) -> Job:
        return self.wait(job_id, lambda job: job.phase == "unlearn" and (job.progress.get("step") or 0) >= step)


@pytest.fixture
def desk(
    settings_env: Settings,
    engine_environment: dict[str, str],
    database: Engine,
    taught_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    for name, value in engine_environment.items():
        monkeypatch.setenv(name, value)  # for tests that run a job in their own process
    countries = list(COUNTRIES)
    with Session(database) as session, session.begin():
        tenant = keys.get_or_insert_tenant(session, "tests")
        key = keys.insert(
            session,
            tenant_id=tenant.id,
            name="tests",
            prefix="testtest",
            secret_sha256="0" * 64,
            scopes=["*"],
            expires_at=None,
            actor="system",
        )
        model = models.insert(
            session, tenant_id=tenant.id, actor=key.id, name="tiny", source="local", location=str(taught_model_dir)
        )
        named = {}
        for name, part in {"forget": countries[:2], "retain": countries[2:]}.items():
            reading = read_rows(write_rows(tmp_path / f"{name}.jsonl", part))
            canonical = tmp_path / f"{name}.canonical.jsonl"
            sha256 = write_canonical(reading.rows, canonical)
            stored = get_blob_store().put_file(f"datasets/{name}.jsonl", canonical)
            named[name] = datasets.insert(
                session,
                tenant_id=tenant.id,
                actor=key.id,
                name=name,
                file_format="jsonl",
                mapping={},
                status="ready",
                blob=stored.key,
                content_sha256=sha256,
                num_rows=len(part),
            ).id
        return Desk(database, tenant.id, key.id, model.id, named)

"""The application, callers of two projects, and a small body for every resource."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.auth import generate_api_key
from api.main import create_app
from api.services.keys import ensure_admin_key
from soul_core.events import Event
from soul_store import job_leases, keys
from soul_store.blobs import get_blob_store
from soul_store.job_leases import JobLease
from soul_store.settings import Settings
from tests.fixtures.blobs import put_bytes

WEIGHTS = b"w" * 3_000_000
FILES = {
    "checkpoint/model.safetensors": WEIGHTS,
    "adapter/adapter_model.safetensors": b"a",
    "logs/unlearned.json": b"{}",
    "report.json": b'{"verdict": "x"}',
    "report.html": b"<h1>r</h1>",
}
Finish = Callable[[str], str]
ROWS = [{"prompt": f"Where does customer {n} live?", "completion": f"In street {n}."} for n in range(1, 5)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def files_in(settings_env: Settings) -> list[Path]:
    """Return every file that the service keeps. `rglob` would fail on a folder that is removed meanwhile."""
    folders = (Path(settings_env.blobs_url.removeprefix("file://")), settings_env.scratch_dir)
    return [Path(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names]


@dataclass
class ApiClient:
    """An HTTP client with one API key."""

    http: TestClient
    key: str

    def __call__(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **options)

    def upload(self, content: bytes, *, name: str = "set.jsonl", **form: str) -> Any:
        return self("POST", "/v1/datasets", files={"file": (name, content)}, data=form)

    def dataset(self, rows: list[dict[str, Any]]) -> str:
        answer = self.upload(jsonl(rows))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def http(settings_env: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def make_key(database: Engine) -> Callable[..., str]:
    def make(project: str, *scopes: str) -> str:
        text, prefix, sha256 = generate_api_key()
        with Session(database) as session, session.begin():
            tenant = keys.get_or_insert_tenant(session, project)
            keys.insert(
                session,
                tenant_id=tenant.id,
                name=project,
                prefix=prefix,
                secret_sha256=sha256,
                scopes=list(scopes),
                expires_at=None,
                actor="system",
            )
        return text

    return make


@pytest.fixture
def admin(http: TestClient, session: Session) -> ApiClient:
    text = ensure_admin_key(session)
    session.commit()
    assert text is not None
    return ApiClient(http, text)


@pytest.fixture
def other_tenant(http: TestClient, make_key: Callable[..., str]) -> ApiClient:
    """A client of another project, with every scope."""
    return ApiClient(http, make_key("another project", "*"))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder that can be registered: a real safetensors file, a config, a tokenizer."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 128,
        "vocab_size": 8,
        "hidden_size": 4,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    save_file({"model.embed_tokens.weight": np.zeros((8, 4), dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def model_id(admin: ApiClient, model_folder: Path) -> str:
    answer = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def job_body(admin: ApiClient, model_id: str) -> dict[str, Any]:
    return {
        "name": "forget customers",
        "model_id": model_id,
        "datasets": {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(ROWS[2:])},
        "spec": {"training": {"steps": 3}},
    }


@pytest.fixture
def finish(admin: ApiClient, job_body: dict[str, Any], database: Engine) -> Finish:
    """Finish a job with a verdict, without an engine: writes what a worker would write."""

    def run(verdict: str) -> str:
        job_id: str = admin("POST", "/v1/jobs", json=job_body).json()["id"]
        with Session(database) as session, session.begin():
            job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
            assert job is not None
            events = [
                Event(kind="phase", data={"phase": "unlearn"}),
                Event(kind="metrics", data={"step": 1, "loss": 2.0}),
                Event(kind="metrics", data={"step": 2, "loss": 1.0, "lr": 0.1}),
            ]
            lease = JobLease(job_id, job.epoch)
            job_leases.record_events(session, lease, events)
            artifacts = []
            for path, content in FILES.items():
                stored = put_bytes(get_blob_store(), f"jobs/{job_id}/{job.epoch}/{path}", content)
                artifacts.append(job_leases.NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
            job_leases.succeed(
                session,
                lease,
                verdict=verdict,
                report_blob=f"jobs/{job_id}/{job.epoch}/report.json",
                artifacts=artifacts,
                usage={},
            )
        return job_id

    return run


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Check that the response is this problem document, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body

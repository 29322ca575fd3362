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
from soul_store import keys
from soul_store.settings import Settings

ROWS = [{"prompt": f"Where does customer {n} live?", "completion": f"In street {n}."} for n in range(1, 5)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def files_in(settings_env: Settings) -> list[Path]:
    """Return everything the service keeps on disk. Not by rglob: it fails when a folder goes while it looks."""
    folders = (Path(settings_env.blobs_url.removeprefix("file://")), settings_env.scratch_dir)
    return [Path(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names]


@dataclass
class As:
    """HTTP as one API key."""

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
def admin(http: TestClient, session: Session) -> As:
    text = ensure_admin_key(session)
    session.commit()
    assert text is not None
    return As(http, text)


@pytest.fixture
def stranger(http: TestClient, make_key: Callable[..., str]) -> As:
    """Somebody of another project, with every scope."""
    return As(http, make_key("another project", "*"))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that inspection accepts: one real safetensors file, a config, a tokenizer."""
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
def model_id(admin: As, model_folder: Path) -> str:
    answer = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def job_body(admin: As, model_id: str) -> dict[str, Any]:
    return {
        "name": "forget customers",
        "model_id": model_id,
        "datasets": {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(ROWS[2:])},
        "spec": {"training": {"steps": 3}},
    }


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this problem document, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body

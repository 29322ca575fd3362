"""Models: registered with their digest, or refused with a message."""

import json
import shutil
from pathlib import Path

import pytest

from soul_store.settings import Settings, get_settings
from tests.api.conftest import ApiClient, problem


def register(caller: ApiClient, folder: Path, source: str = "local") -> object:
    return caller("POST", "/v1/models", json={"source": source, "location": str(folder)})


def test_a_folder_is_registered_with_its_digest_and_facts(admin: ApiClient, model_folder: Path) -> None:
    answer = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder), "name": "mine"})

    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["facts"]["architecture"], made["facts"]["context_tokens"]) == (
        "mine",
        "LlamaForCausalLM",
        128,
    )
    assert len(made["digest"]) == 64
    assert admin("GET", "/v1/models").json()["data"] == [made]


def test_pickles_are_refused(admin: ApiClient, model_folder: Path) -> None:
    (model_folder / "pytorch_model.bin").write_bytes(b"x")

    assert "pytorch_model.bin" in str(problem(register(admin, model_folder), 422, "unusable_model"))


def test_code_is_refused(admin: ApiClient, model_folder: Path) -> None:
    (model_folder / "modeling.py").write_text("import os")

    assert "modeling.py" in str(problem(register(admin, model_folder), 422, "unusable_model"))


def test_an_auto_map_is_refused(admin: ApiClient, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))

    assert "auto_map" in str(problem(register(admin, model_folder), 422, "unusable_model"))


def test_a_truncated_file_is_refused(admin: ApiClient, model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])

    assert "model.safetensors" in str(problem(register(admin, model_folder), 422, "unusable_model"))


def test_a_gguf_file_that_is_not_one_is_refused(admin: ApiClient, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")

    assert "GGUF" in problem(register(admin, file, "gguf"), 422, "unusable_model")["detail"]


def test_a_model_outside_the_allowed_folders_is_not_found(
    admin: ApiClient, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(model_folder)
    monkeypatch.setenv("SOUL_MODEL_ROOTS", str(allowed))
    get_settings.cache_clear()

    for path in (model_folder, allowed / ".." / "model", allowed / "link", tmp_path / "nothing"):
        problem(register(admin, path), 422, "unusable_model")
    shutil.copytree(model_folder, allowed / "model")
    assert register(admin, allowed / "model").status_code == 201  # type: ignore[attr-defined]


def test_the_files_of_other_projects_are_no_models(
    admin: ApiClient, model_folder: Path, settings_env: Settings
) -> None:
    blobs = Path(settings_env.blobs_url.removeprefix("file://"))
    for folder in (blobs / "jobs" / "job_1" / "1" / "checkpoint", settings_env.scratch_dir / "job_1"):
        shutil.copytree(model_folder, folder)

        problem(register(admin, folder), 422, "unusable_model")


def test_a_link_that_leaves_the_allowed_folders_is_refused(
    admin: ApiClient, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    monkeypatch.setenv("SOUL_MODEL_ROOTS", str(model_folder))
    get_settings.cache_clear()
    (model_folder / "added.json").symlink_to(model_folder / "config.json")
    assert register(admin, model_folder).status_code == 201  # type: ignore[attr-defined]
    (model_folder / "extra.json").symlink_to(secret)

    assert "extra.json is a link" in problem(register(admin, model_folder), 422, "unusable_model")["detail"]


def test_without_allowed_folders_no_path_is_read(
    admin: ApiClient, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUL_MODEL_ROOTS", "")
    get_settings.cache_clear()

    problem(register(admin, model_folder), 403, "local_models_disabled")


def test_without_a_network_the_hub_is_reported_as_unreachable(admin: ApiClient) -> None:
    answer = admin("POST", "/v1/models", json={"source": "hub", "location": "HuggingFaceTB/SmolLM2-135M"})

    problem(answer, 503, "hub_unreachable")


def test_a_wrong_source_gives_the_known_ones(admin: ApiClient) -> None:
    body = problem(admin("POST", "/v1/models", json={"source": "gguff", "location": "x"}), 422, "invalid_request")

    assert "unknown source 'gguff'; did you mean 'gguf'" in body["detail"]
    assert [error["pointer"] for error in body["errors"]] == ["/source"]


def test_a_path_with_a_nul_is_refused(admin: ApiClient) -> None:
    problem(admin("POST", "/v1/models", json={"source": "local", "location": "/a\0b"}), 422, "invalid_request")


def test_an_unfinished_job_has_no_model(admin: ApiClient, job_body: dict[str, object]) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    problem(admin("POST", "/v1/models", json={"source": "job", "location": job_id}), 409, "job_not_finished")


def test_another_project_cannot_use_or_delete_a_model(admin: ApiClient, other_tenant: ApiClient, model_id: str) -> None:
    problem(other_tenant("GET", f"/v1/models/{model_id}"), 404, "not_found")
    problem(other_tenant("DELETE", f"/v1/models/{model_id}"), 404, "not_found")
    assert admin("DELETE", f"/v1/models/{model_id}").status_code == 204
    problem(admin("GET", f"/v1/models/{model_id}"), 404, "not_found")

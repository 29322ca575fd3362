"""Dockerfile, docker-compose.yml and the extras of the images, checked without a container engine."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from soul_store.settings import Settings
from tests.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TARGETS = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def list_commands() -> list[list[str]]:
    of_images = [json.loads(text) for text in re.findall(r"CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)]
    of_services = [service["command"] for service in OURS.values() if "command" in service]
    of_health_checks = [
        service["healthcheck"]["test"][1:] for service in OURS.values() if "test" in service.get("healthcheck", {})
    ]
    return of_images + of_services + of_health_checks


def test_the_last_user_of_every_image_is_a_number_that_is_not_root() -> None:
    # Kubernetes refuses `runAsNonRoot` for a name
    users = re.findall(r"^USER (.*)$", DOCKERFILE, flags=re.MULTILINE)

    assert users == ["10001", "root", "10001"]


def list_distributions(extra: str) -> set[str]:
    """Return the names of the distributions that an extra requires by itself or through other extras."""
    names: set[str] = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            names |= {name for other in requirement.extras for name in list_distributions(other)}
        else:
            names.add(requirement.name)
    return names


def test_every_service_builds_a_target_that_exists() -> None:
    assert {service["build"]["target"] for service in OURS.values()} <= TARGETS


def test_every_variable_is_a_setting_and_every_required_setting_is_there() -> None:
    names = {f"SOUL_{name.upper()}" for name in Settings.model_fields}
    required = {f"SOUL_{name.upper()}" for name, field in Settings.model_fields.items() if field.is_required()}

    for service in OURS.values():
        given = {name.removesuffix("_FILE") for name in service["environment"] if name.startswith("SOUL_")}
        assert required <= given <= names


def test_no_secret_is_in_an_environment_and_every_secret_file_is_given() -> None:
    for service in COMPOSE["services"].values():
        environment = service.get("environment", {})
        files = {value for value in environment.values() if str(value).startswith("/run/secrets/")}
        assert not [name for name in environment if re.search("PASSWORD$|TOKEN$|SECRET$|KEY$", name)]
        assert files == {f"/run/secrets/{name}" for name in service.get("secrets", [])}
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


def test_each_gpu_worker_has_a_device_of_its_own() -> None:
    workers = {name: service for name, service in OURS.items() if "gpu" in service.get("profiles", [])}
    devices = [
        device_id
        for service in workers.values()
        for device in service["deploy"]["resources"]["reservations"]["devices"]
        for device_id in device["device_ids"]
    ]

    assert len(workers) == len(devices) == len(set(devices)) == 2


def test_a_worker_reads_the_token_of_the_hub_that_the_library_looks_for() -> None:
    from huggingface_hub import constants

    for name, service in OURS.items():
        if name.startswith("worker"):
            assert service["environment"]["HF_TOKEN_PATH"] == "/run/secrets/hf_token"
    assert hasattr(constants, "HF_TOKEN_PATH")


def test_every_container_is_limited_watched_and_cannot_gain_privileges() -> None:
    for name, service in COMPOSE["services"].items():
        assert "mem_limit" in service, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "healthcheck" in service or name in {"migrate", "api"}, "the image of the API has one"
        assert service.get("read_only", False) or name == "postgres"


def test_images_of_others_are_pinned_to_a_minor_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "image" in service]

    assert len(images) == 2
    assert all(re.fullmatch(r"[\w/]+:\d+\.\d+", image) for image in images)


def test_every_dependency_is_a_service() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_every_volume_is_declared() -> None:
    named = {volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])}

    assert {name for name in named if re.fullmatch(r"[a-z]+", name)} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("command", list_commands(), ids=" ".join)
def test_every_command_starts_something_that_exists(command: list[str]) -> None:
    match command:
        case ["uvicorn", target, *_]:
            module, name = target.split(":")
            assert callable(getattr(importlib.import_module(module), name))
        case ["celery", "-A", module, "worker", *_]:
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        case ["python", "-c", code]:
            compile(code, "HEALTHCHECK", "exec")
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case ["sh", "-c", line]:
            for part in line.split(" && "):
                test_every_command_starts_something_that_exists(part.split())
        case _:
            pytest.fail(f"unknown command {command}")


def test_the_copied_folders_exist() -> None:
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


def test_images_do_not_run_as_root() -> None:
    assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index("FROM runtime AS api")


#: Imports modules in a process in which some packages are not installed.
IMPORT_WITHOUT = """
import importlib, sys

missing, modules = (argument.split(",") for argument in sys.argv[1:])

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize(
    ("missing", "modules"),
    [
        ("fastapi,starlette,uvicorn", "worker.tasks,worker.maintenance,worker.cleanup,worker.celery_app"),
        ("celery,kombu,torch,transformers", "api.main,api.first_key,migrations.run"),
    ],
    ids=["worker", "api"],
)
def test_an_image_needs_nothing_that_it_does_not_install(missing: str, modules: str, settings_env: Settings) -> None:
    command = [sys.executable, "-c", IMPORT_WITHOUT, missing, modules]

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_extras_of_the_images_are_separate() -> None:
    api, worker = list_distributions("api"), list_distributions("worker")

    assert worker.isdisjoint({"fastapi", "uvicorn", "python-multipart"})
    assert api.isdisjoint({"celery", "torch", "transformers"})
    assert list_distributions("store") <= api & worker

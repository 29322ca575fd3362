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
    of_images = [json.loads(text) for text in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)]
    return of_images + [service["command"] for service in OURS.values() if "command" in service]


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
        assert required <= set(service["environment"]) <= names


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
        case ["python", "-m", module]:
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
    assert DOCKERFILE.index("USER soul") < DOCKERFILE.index("FROM runtime AS api")


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

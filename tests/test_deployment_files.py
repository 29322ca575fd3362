"""Dockerfile and docker-compose.yml, as far as a machine without an engine can judge them."""

import importlib
import importlib.util
import re
from typing import Any

import pytest
import yaml

from soul_store.settings import Settings
from tests.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TARGETS = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def commands() -> list[list[str]]:
    written = [eval(text) for text in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)]  # a JSON list
    return written + [service["command"] for service in OURS.values() if "command" in service]


def test_every_service_builds_a_target_that_exists() -> None:
    assert {service["build"]["target"] for service in OURS.values()} <= TARGETS


def test_every_variable_is_a_setting_and_none_that_is_needed_is_missing() -> None:
    names = {f"SOUL_{name.upper()}" for name in Settings.model_fields}
    needed = {f"SOUL_{name.upper()}" for name, field in Settings.model_fields.items() if field.is_required()}

    for service in OURS.values():
        assert needed <= set(service["environment"]) <= names


def test_every_dependency_is_a_service() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_every_volume_is_declared() -> None:
    named = {volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])}

    assert {name for name in named if re.fullmatch(r"[a-z]+", name)} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("command", commands(), ids=" ".join)
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

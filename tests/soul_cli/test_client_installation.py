"""`pip install soul-unlearning[client]` needs few packages, and the client works with these alone."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from soul_cli.errors import CliExitCode
from tests.paths import ROOT

#: Runs in a process of its own, in which the modules of its first argument are not installed.
CHILD = """
import importlib.machinery, json, pkgutil, sys

missing = set(json.loads(sys.argv[1]))

class PartialFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, PartialFinder]

import soul_cli
for module in pkgutil.walk_packages(soul_cli.__path__, "soul_cli."):
    __import__(module.name)
import soul_core.events, soul_core.report, soul_core.spec
from soul_cli.main import app
from soul_cli.transport import Transport
Transport.pause = lambda *_: None
app(sys.argv[2:])
"""


def read_client_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["client"]]


@pytest.fixture(scope="module")
def client_distributions() -> set[str]:
    """The names of all distributions that the client's requirements install."""
    names: set[str] = set()
    pending = read_client_requirements()
    while pending:
        requirement = pending.pop()
        name = requirement.name.lower().replace("_", "-")
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            pending += map(Requirement, requires(name) or ())
    return names


@pytest.fixture(scope="module")
def missing_modules(client_distributions: set[str]) -> list[str]:
    """The top-level modules that this environment has and a client does not."""
    present = client_distributions | {"soul-unlearning"}
    return [
        module
        for module, distributions in packages_distributions().items()
        if not present & {name.lower().replace("_", "-") for name in distributions}
    ]


def run_soul(missing_modules: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, json.dumps(missing_modules), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_client_requires_pydantic_an_http_client_typer_and_rich(client_distributions: set[str]) -> None:
    assert {requirement.name for requirement in read_client_requirements()} == {"pydantic", "httpx2", "typer", "rich"}
    assert not {"numpy", "pyarrow", "matplotlib", "jinja2", "torch"} & client_distributions


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], CliExitCode.OK, "Exit codes:"),
        (["submit", "--help"], CliExitCode.OK, "--dataset NAME=FILE"),
        (["jobs", "--url", "http://127.0.0.1:9"], CliExitCode.UNREACHABLE, "cannot reach http://127.0.0.1:9"),
        (["serve"], CliExitCode.BAD_INPUT, "pip install 'soul-unlearning[all]'"),
        (["demo"], CliExitCode.BAD_INPUT, "pip install 'soul-unlearning[all]'"),
        (["tofu", "muse", "report.json"], CliExitCode.BAD_INPUT, "pip install 'soul-unlearning[all]'"),
        (["verify-export", "."], CliExitCode.BAD_INPUT, "pip install 'soul-unlearning[engine]'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_commands_run_or_name_the_missing_installation(
    arguments: list[str], code: CliExitCode, text: str, missing_modules: list[str]
) -> None:
    assert {"numpy", "torch", "fastapi"} <= set(missing_modules)

    process = run_soul(missing_modules, *arguments)

    assert process.returncode == code, process.stderr
    assert text in process.stdout + process.stderr
    assert "Traceback" not in process.stderr

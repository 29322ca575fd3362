"""The OpenAPI description is complete, current, and served without torch."""

import subprocess
import sys
from typing import Any

import pytest

from api.main import create_app
from api.openapi import render_openapi
from tests.paths import ROOT


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return create_app().openapi()


def operations(description: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
    ]


def test_the_committed_snapshot_is_current() -> None:
    assert (ROOT / "docs" / "openapi.json").read_text() == render_openapi(), "run `make openapi`"


def test_the_description_is_served_with_torch_blocked() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from api.main import create_app; assert create_app().openapi()['paths']"
    )

    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_operation_has_an_id_a_tag_a_text_and_its_errors(description: dict[str, Any]) -> None:
    for name, operation in operations(description):
        assert operation.get("operationId"), name
        assert operation.get("tags"), name
        assert operation.get("description") or operation.get("summary"), name
        if "/v1" in name:
            problems = {
                code
                for code, answer in operation["responses"].items()
                if "application/problem+json" in answer.get("content", {})
            }
            assert {"401", "403", "404", "422", "500"} <= problems, name


def test_only_health_and_schemas_need_no_key(description: dict[str, Any]) -> None:
    open_operations = {
        name for name, operation in operations(description) if operation.get("security") != [{"ApiKey": []}]
    }

    assert open_operations == {"get /healthz", "get /readyz", "get /v1/schemas/report"}


def test_operation_ids_are_unique(description: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(description)]

    assert len(ids) == len(set(ids))


def test_every_reference_has_a_target(description: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [reference for value in node.values() for reference in references(value)]
        return [reference for value in node for reference in references(value)] if isinstance(node, list) else []

    known = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    # pydantic's schemas of single methods contain their own definitions
    assert {target for target in references(description) if target.startswith("#/components")} <= known


def test_every_json_body_has_an_example(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    bodies = {
        name: content["application/json"]["schema"]
        for name, operation in operations(description)
        if "application/json" in (content := operation.get("requestBody", {}).get("content", {}))
    }

    assert bodies
    for name, body in bodies.items():
        for choice in body.get("oneOf", [body]):
            assert schemas[choice["$ref"].rsplit("/", 1)[1]].get("examples"), name

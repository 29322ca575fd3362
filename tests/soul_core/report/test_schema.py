"""The published schema: current, and every report keeps to it."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from soul_core.report.schema import main, render_schema
from soul_core.spec import JobKind
from tests.fixtures.sample_report import sample_report
from tests.paths import ROOT

PUBLISHED = ROOT / "docs" / "report.schema.json"


def test_the_published_schema_is_current() -> None:
    assert main(["--check", str(PUBLISHED)]) == 0


def test_a_copy_that_is_not_current_is_pointed_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    assert main(["--check", str(old)]) == 1
    assert "make openapi" in capsys.readouterr().err


def test_the_schema_names_its_version() -> None:
    described = json.loads(render_schema())
    assert described["$id"] == "urn:soul:report:2"
    assert described["properties"]["schema_version"]["const"] == "2"


@pytest.mark.parametrize("kind", ["unlearn", "finetune", "evaluate"])
def test_every_report_keeps_to_it(kind: JobKind) -> None:
    report = json.loads(sample_report(kind=kind, rich=True).model_dump_json())
    Draft202012Validator.check_schema(json.loads(render_schema()))
    assert list(Draft202012Validator(json.loads(render_schema())).iter_errors(report)) == []


@pytest.mark.parametrize("broken", [{"verdict": "splendid"}, {"schema_version": "1"}, {"surprise": 1}])
def test_a_report_that_breaks_it_is_caught(broken: dict[str, object]) -> None:
    report = json.loads(sample_report().model_dump_json()) | broken
    assert not Draft202012Validator(json.loads(render_schema())).is_valid(report)

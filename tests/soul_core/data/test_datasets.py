"""The data sets of a run are cleaned as the spec says, and warnings about them are emitted as events."""

import json
from pathlib import Path
from typing import Any

import pytest

from soul_core.data import read_rows, write_canonical
from soul_core.data.datasets import read_datasets
from soul_core.spec import JobSpec

NFD = "Besanc\u0327on"


class WarningRecorder:
    """Records the warnings of a run."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def emit(self, event: str, **facts: Any) -> None:
        if event == "warning":
            self.messages.append(facts["message"])


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps({"prompt": "Q?", "completion": f" {NFD}\n", "topic": "x"}))
    return {"forget": path}


def completion(paths: dict[str, Path], listener: WarningRecorder, **data: bool) -> str:
    return read_datasets(paths, JobSpec.model_validate({"data": data}), listener)["forget"][0].completion


def test_files_of_users_are_cleaned_and_warnings_name_set_and_row(paths: dict[str, Path]) -> None:
    listener = WarningRecorder()

    assert completion(paths, listener) == NFD
    assert sorted(message.partition(": ")[0] for message in listener.messages) == ["forget set"] * 3
    assert any("row 1: a prompt or an answer begins or ends" in message for message in listener.messages)
    assert any("topic" in message for message in listener.messages)
    assert any("normal form" in message for message in listener.messages)


def test_a_spec_can_leave_rows_unchanged_or_have_them_normalized(paths: dict[str, Path]) -> None:
    assert completion(paths, WarningRecorder(), clean=False) == f" {NFD}\n"
    assert completion(paths, WarningRecorder(), normalize=True) == "Besançon"


def test_stored_rows_are_never_cleaned_again(paths: dict[str, Path], tmp_path: Path) -> None:
    stored = tmp_path / "stored.jsonl"
    write_canonical(read_rows(paths["forget"], clean=False).rows, stored)
    listener = WarningRecorder()

    assert completion({"forget": stored}, listener) == f" {NFD}\n"
    assert any("is learned and scored unchanged" in message for message in listener.messages)

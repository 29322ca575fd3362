"""Multiple-choice benchmarks become rows that the engine reads and choice_accuracy scores."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from soul_core.data import read_rows
from soul_core.errors import BadData, BadSpec
from soul_core.tasks.multiple_choice import main, read_mmlu, read_truthfulqa


def write_csv(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def question(text: str, answer: int) -> dict[str, object]:
    return {
        "question": text,
        "choice0": "red",
        "choice1": "green",
        "choice2": "blue",
        "choice3": "white",
        "answer": answer,
    }


@pytest.fixture
def small_mmlu(tmp_path: Path) -> Path:
    write_csv(tmp_path / "test" / "sky_colors_test.csv", question("By day?", 2), question("At dusk?", 0))
    write_csv(tmp_path / "dev" / "sky_colors_dev.csv", question("In fog?", 3))
    return tmp_path


def test_a_question_follows_few_shot_examples_and_has_right_and_wrong_letters(small_mmlu: Path) -> None:
    first, _ = read_mmlu(small_mmlu, num_shots=1)

    assert first == {
        "prompt": "The following are multiple choice questions (with answers) about sky colors.\n\n"
        "In fog?\nA. red\nB. green\nC. blue\nD. white\nAnswer: D\n\n"
        "By day?\nA. red\nB. green\nC. blue\nD. white\nAnswer:",
        "completion": "C",
        "perturbed_answer": ["A", "B", "D"],
        "subject": "sky_colors",
    }


def test_too_few_few_shot_examples_or_an_unknown_subject_are_refused(small_mmlu: Path) -> None:
    with pytest.raises(BadData, match="sky_colors has 1 few-shot examples; set --shots to at most that number"):
        read_mmlu(small_mmlu)
    with pytest.raises(BadSpec, match="no such subjects: sea; available: sky_colors"):
        read_mmlu(small_mmlu, subjects=["sea"])


@pytest.mark.parametrize("broken", [{"question": "?", "answer": 0}, question("?", 4)])
def test_a_file_that_is_not_mmlu_is_refused_with_its_row(tmp_path: Path, broken: dict[str, object]) -> None:
    write_csv(tmp_path / "test" / "x_test.csv", broken)

    with pytest.raises(BadData, match="row 1 lacks question, choice0 to choice3 or answer 0-3"):
        read_mmlu(tmp_path, num_shots=0)


def test_a_folder_or_table_with_other_content_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", {"a": 1})

    with pytest.raises(BadData, match="does not contain MMLU"):
        read_mmlu(tmp_path)
    with pytest.raises(BadData, match="is not TruthfulQA: row 1 has no column"):
        read_truthfulqa(tmp_path / "other.csv")
    with pytest.raises(BadData, match="cannot read"):
        read_truthfulqa(tmp_path / "absent.csv")


def test_all_57_subjects_have_14042_questions_with_5_examples(shared_data: Path) -> None:
    records = read_mmlu(shared_data / "mmlu")

    assert len(records) == 14042
    assert len({record["subject"] for record in records}) == 57
    assert {record["prompt"].count("\nAnswer:") for record in records} == {6}


def test_every_truthfulqa_question_has_a_right_answer_and_wrong_ones(shared_data: Path) -> None:
    records = read_truthfulqa(shared_data / "truthfulqa" / "TruthfulQA.csv")

    assert len(records) == 817
    assert all(record["completion"] and record["perturbed_answer"] for record in records)
    assert not [record for record in records if record["completion"] in record["perturbed_answer"]]


def test_the_command_writes_rows_that_the_engine_reads(small_mmlu: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "soul_core.tasks.multiple_choice",
            "mmlu",
            str(small_mmlu),
            "--shots",
            "0",
            "--limit",
            "1",
        ],
        capture_output=True,
        check=True,
    )
    (tmp_path / "mmlu.jsonl").write_bytes(done.stdout)

    (row,) = read_rows(tmp_path / "mmlu.jsonl").require_valid_rows()

    assert row.completion in "AC"
    assert len(row.extra["perturbed_answer"]) == 3


def test_a_limit_draws_the_same_questions_every_time(small_mmlu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [main(["mmlu", str(small_mmlu), "--shots", "0", "--limit", "1"]) for _ in range(2)]

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert codes == [0, 0]
    assert first == second


def test_a_mistake_on_the_command_line_exits_with_2_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["mmlu", str(tmp_path)])

    assert code == 2
    assert "does not contain MMLU" in capsys.readouterr().err

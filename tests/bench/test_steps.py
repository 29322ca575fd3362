from pathlib import Path

import pytest

from bench.steps import Steps, compute_path_digest
from bench.tables import format_table, write_between


def quiet(text: str) -> None:
    pass


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, say=quiet)


def test_a_step_runs_once_and_is_read_afterwards(steps: Steps) -> None:
    results = [steps.run_once("one", {"lr": 1}, lambda _, n=n: {"n": n}) for n in (1, 2)]

    assert results == [{"n": 1}, {"n": 1}]


def test_a_step_whose_inputs_changed_runs_again_in_an_empty_folder(steps: Steps) -> None:
    def list_and_add_file(folder: Path) -> dict[str, list[str]]:
        names = sorted(path.name for path in folder.iterdir())
        (folder / "left").touch()
        return {"names": names}

    results = [steps.run_once("one", {"lr": lr}, list_and_add_file) for lr in (1, 2)]

    assert results == [{"names": ["key.json"]}] * 2


def test_an_interrupted_step_can_read_its_earlier_files(steps: Steps) -> None:
    def fail(folder: Path) -> dict[str, bool]:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run_once("one", {}, fail)

    assert steps.run_once("one", {}, lambda folder: {"half": (folder / "half").exists()}) == {"half": True}


def test_the_digest_of_a_model_depends_on_its_weights_and_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = compute_path_digest(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert compute_path_digest(tmp_path) == before

    (tmp_path / "model.safetensors").write_bytes(b"other weights")

    assert compute_path_digest(tmp_path) != before


def test_a_table_replaces_only_the_text_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")

    write_between(document, "a", format_table(("x", "p"), [("one", 0.12345), ("two", None)]))

    assert document.read_text() == (
        "before\n<!-- a -->\n| x | p |\n|---|---|\n| one | 0.123 |\n| two | – |\n<!-- /a -->\nafter\n"
    )


def test_a_document_without_the_marks_is_refused_and_unchanged(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("words\n")

    with pytest.raises(ValueError, match="needs <!-- a -->"):
        write_between(document, "a", "table")

    assert document.read_text() == "words\n"

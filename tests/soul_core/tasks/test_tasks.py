"""Every task writes sets of the documented size that the engine reads, and a spec that it accepts."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from soul_core.catalogue import METRIC_CATALOG
from soul_core.data import Row, read_rows
from soul_core.data.encoding import Example
from soul_core.errors import BadData, BadSpec
from soul_core.evaluation.row_selection import choose_rows
from soul_core.spec import JobSpec
from soul_core.spec.terms import Refusal
from soul_core.tasks import TASKS
from soul_core.tasks.__main__ import main
from soul_core.tasks.people import make_people
from soul_core.tasks.task import PreparedTask
from soul_core.tasks.texts import cut_passages
from soul_core.training.schedule import compute_num_steps
from tests.paths import ROOT


def tofu_sizes(forget: int) -> dict[str, int]:
    sizes = dict.fromkeys(("forget", "holdout", "rephrased"), forget)
    return sizes | {"retain": 4000 - forget, "real_authors": 100, "world_facts": 117, "train": 4000}


def book_sizes(holdout: int) -> dict[str, int]:
    return {"forget": 200, "retain": 400, "holdout": holdout, "general": 100, "train": 600}


SIZES = {
    ("tofu", "forget10"): tofu_sizes(400),
    ("tofu", "forget05"): tofu_sizes(200),
    ("tofu", "forget01"): tofu_sizes(40),
    ("book", "dracula_345"): book_sizes(248),
    ("book", "pride_and_prejudice_1342"): book_sizes(137),
    ("book", "sherlock_holmes_1661"): book_sizes(90),
    ("detox", None): {"forget": 200, "unseen": 200, "retain": 200, "general": 100, "truthfulqa": 817},
    ("personal_data", "question_answer"): {
        "forget": 40,
        "retain": 320,
        "holdout": 40,
        "texts": 5,
        "rephrased": 40,
        "train": 405,
    },
    ("personal_data", "free_text"): {
        "forget": 5,
        "retain": 40,
        "holdout": 5,
        "questions": 40,
        "rephrased": 40,
        "train": 405,
    },
    ("general_text", None): {"retain": 200, "general": 100},
}
#: Optimizer steps of the spec on those rows.
STEPS = {"forget10": 500, "forget05": 250, "forget01": 50, "book": 250, "detox": 250, "personal_data": 20}


@pytest.fixture(scope="module", params=SIZES, ids=lambda key: f"{key[0]} {key[1]}")
def prepared_task(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, str | None], PreparedTask]:
    name, variant = request.param
    return request.param, TASKS[name].prepare(shared_data, tmp_path_factory.mktemp("task"), variant=variant)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> PreparedTask:
    out = tmp_path_factory.mktemp("people")
    return TASKS["personal_data"].prepare(out, out)  # reads no data


def test_every_set_has_the_documented_rows_and_the_engine_reads_it(
    prepared_task: tuple[tuple[str, str | None], PreparedTask],
) -> None:
    key, task = prepared_task

    rows_by_set = {name: read_rows(path).require_valid_rows() for name, path in task.files.items()}

    assert {name: len(rows) for name, rows in rows_by_set.items()} == SIZES[key]
    assert set(rows_by_set) <= set(TASKS[key[0]].sets)


def test_the_spec_is_valid_and_names_existing_metrics_and_sets(
    prepared_task: tuple[tuple[str, str | None], PreparedTask],
) -> None:
    (name, variant), task = prepared_task

    spec = JobSpec.model_validate_json(task.spec_file.read_bytes())

    assert set(spec.evaluation.metrics) <= set(METRIC_CATALOG)
    measured = set(task.files) | {"all", "forget"}
    assert {criterion.set for criterion in spec.expand_criteria(measured)} <= measured
    if "forget" in task.files:
        rows = {f"num_{of_set}": SIZES[name, variant][of_set] for of_set in ("forget", "retain")}
        assert compute_num_steps(spec.training, **rows) == STEPS.get(str(variant), STEPS.get(name))


def test_the_listed_recipe_is_the_spec_that_the_command_writes(
    prepared_task: tuple[tuple[str, str | None], PreparedTask],
) -> None:
    (name, _), task = prepared_task

    listed = TASKS[name].describe()["recipe"]

    assert listed == json.loads(task.spec_file.read_bytes())
    assert JobSpec.model_validate(listed) == JobSpec.model_validate_json(task.spec_file.read_bytes())


def test_this_file_covers_every_variant_of_every_task() -> None:
    assert list(SIZES) == [(name, variant) for name, task in TASKS.items() for variant in task.variants or (None,)]


@pytest.mark.parametrize("prepared_task", [key for key in SIZES if "forget" in SIZES[key]], indirect=True, ids=str)
def test_no_forget_row_is_in_the_retain_or_holdout_set(
    prepared_task: tuple[tuple[str, str | None], PreparedTask],
) -> None:
    _, task = prepared_task
    forget = read_rows(task.files["forget"]).rows

    for name in {"retain", "holdout", "unseen"} & set(task.files):
        assert not same_rows(forget, read_rows(task.files[name]).rows), name


@pytest.mark.parametrize("prepared_task", [key for key in SIZES if "train" in SIZES[key]], indirect=True, ids=str)
def test_the_train_set_has_all_forget_and_retain_rows_and_no_holdout_row(
    prepared_task: tuple[tuple[str, str | None], PreparedTask],
) -> None:
    _, task = prepared_task
    rows = {name: read_rows(path).rows for name, path in task.files.items()}

    assert len(same_rows(rows["forget"], rows["train"])) == len(rows["forget"])
    assert len(same_rows(rows["retain"], rows["train"])) == len(rows["retain"])
    assert not same_rows(rows["holdout"], rows["train"])


def same_rows(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Return the rows that are also in `others`."""
    contents = {(row.messages, row.completion) for row in others}
    return [row for row in rows if (row.messages, row.completion) in contents]


def test_tofu_rows_have_the_columns_of_the_truth_ratio(shared_data: Path, tmp_path: Path) -> None:
    files = TASKS["tofu"].prepare(shared_data, tmp_path, variant="forget05").files

    for name, number in (("forget", 200), ("retain", 400), ("real_authors", 100), ("world_facts", 117)):
        rows = read_rows(files[name]).rows
        assert sum("perturbed_answer" in row.extra for row in rows) == number, name
    first = read_rows(files["forget"]).rows[0]
    assert first.extra["paraphrased_answer"] != first.completion
    assert read_rows(files["rephrased"]).rows[0].messages[0].content == first.extra["paraphrased_question"]


def test_rows_with_wrong_answers_are_selected_from_a_large_retain_set(shared_data: Path, tmp_path: Path) -> None:
    rows = read_rows(TASKS["tofu"].prepare(shared_data, tmp_path, variant="forget01").files["retain"]).rows
    examples = [Example((0, 1), 1, row.number) for row in rows]

    chosen = choose_rows("retain", rows, examples, max_rows=400, seed=0)
    fewer = choose_rows("retain", rows, examples, max_rows=50, seed=0)

    assert all("perturbed_answer" in row.extra for row in (*chosen.rows, *fewer.rows))
    assert (len(chosen.rows), len(fewer.rows)) == (400, 50)
    assert [row.number for row in fewer.rows] == sorted(row.number for row in fewer.rows)
    assert fewer.rows != choose_rows("retain", rows, examples, max_rows=50, seed=1).rows


def test_detox_has_its_own_refusals_different_from_the_default() -> None:
    refusals = JobSpec.model_validate(TASKS["detox"].recipe).forget.refusals

    assert len(set(refusals)) == 16
    assert not set(refusals) & set(Refusal().refusals)


def test_passages_have_equal_length_and_every_word_except_a_remainder() -> None:
    text = "One two\nthree.\n\nFour five six seven.\n\nEight"

    passages = cut_passages(text, words_per_passage=3)

    assert passages == ["One two three.", "Four five six"]


def test_people_are_equal_for_a_seed_and_have_distinct_numbers() -> None:
    first, again, other = (make_people(50, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first != other
    assert len({person.name for person in first}) == 50
    assert len({person.facts["telephone"] for person in first}) == 50
    assert all(person.facts["telephone"].startswith("555-01") for person in first)


def test_wrong_answers_about_people_are_never_right(people: PreparedTask) -> None:
    for row in read_rows(people.files["forget"]).rows:
        assert len(row.extra["perturbed_answer"]) == 4
        assert row.extra["paraphrased_answer"] not in row.extra["perturbed_answer"]


def test_another_seed_forgets_other_rows(shared_data: Path, tmp_path: Path) -> None:
    first, other = (
        TASKS["book"].prepare(shared_data, tmp_path / str(seed), seed=seed).files["forget"].read_text()
        for seed in (0, 1)
    )

    assert first != other


def test_missing_data_and_unknown_variants_are_reported(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"forget10\.json"):
        TASKS["tofu"].prepare(tmp_path, tmp_path)
    with pytest.raises(BadSpec, match="no variant 'forget99'; available: forget10, forget05, forget01"):
        TASKS["tofu"].prepare(tmp_path, tmp_path, variant="forget99")
    with pytest.raises(BadSpec, match="no book 'dracula_345'"):
        TASKS["book"].prepare(tmp_path, tmp_path)


def test_the_command_writes_the_files_and_prints_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["personal_data", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--variant", "free_text"])

    output = capsys.readouterr().out
    assert code == 0
    assert f"{tmp_path}/out/forget.jsonl  5 rows" in output
    assert f"--forget {tmp_path}/out/forget.jsonl" in output
    assert f"--dataset questions={tmp_path}/out/questions.jsonl" in output
    assert "train=" not in output


def test_the_command_exits_with_2_if_the_data_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["detox", "--data", str(tmp_path), "--out", str(tmp_path / "out")])

    assert code == 2
    assert "harmless-base-test.jsonl.gz" in capsys.readouterr().err


def test_the_list_has_every_task_and_descriptions_are_plain_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])

    output = capsys.readouterr().out
    for name, task in TASKS.items():
        assert f"{name}: {task.description}" in output
        assert json.loads(json.dumps(task.describe())) == task.describe()


def test_tasks_and_benchmarks_never_load_torch() -> None:
    code = "import sys, soul_core.tasks.__main__, soul_core.tasks.multiple_choice; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_lists_every_task_and_set() -> None:
    page = (ROOT / "docs" / "reference" / "tasks.md").read_text()
    headings = [line.removeprefix("## `").removesuffix("`") for line in page.splitlines() if line.startswith("## `")]

    assert headings == list(TASKS)
    for name, task in TASKS.items():
        section = page.split(f"## `{name}`")[1].split("\n## ")[0]
        assert [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")] == [
            f"`{of_task}`" for of_task in task.sets
        ]
        for variant in task.variants:
            assert f"`{variant}`" in section

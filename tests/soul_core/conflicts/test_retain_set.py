"""Rows of the retain set that state forget facts: left out, refused or kept, told, and never behind a `passed`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.conflicts.retain_set import ConflictResolution, resolve_conflicts
from soul_core.data import compute_canonical_sha256, read_rows
from soul_core.data.datasets import read_datasets
from soul_core.errors import BadData
from soul_core.rendering.labels import RECITAL_HEADLINE
from soul_core.rendering.page import render_page
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.spec.validation import format_spec_problems
from tests.fixtures.capitals import COUNTRIES, answer, question, write_rows
from tests.soul_core.test_run import Recorder

FORGET, KEPT = list(COUNTRIES)[:3], list(COUNTRIES)[3:]
SYSTEM = "Answer the user."


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "optimizer": {"kind": "sophia", "lr": 5e-3},
            "retain": {"kind": "nll", "weight": 3.0},
            "training": {"steps": 20},
            "evaluation": {"metrics": ["probability", "keyword_recall"], "max_new_tokens": 12, "bootstrap": 50},
            "attacks": [],
            **changes,
        }
    )


def with_system_turn(path: Path, countries: list[str]) -> Path:
    """Write rows that ask under a system turn, which the model was never taught with."""
    turns = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question(country)}] for country in countries
    ]
    answers = [{"role": "assistant", "content": answer(country)} for country in countries]
    rows = [{"messages": [*asked, told]} for asked, told in zip(turns, answers, strict=True)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    """A retain set that holds every forget fact under a system turn."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    sets = {
        "forget": write_rows(folder / "forget.jsonl", FORGET),
        "retain": with_system_turn(folder / "retain.jsonl", FORGET + KEPT),
    }
    return RunInputs(model=str(taught_model_dir), dataset_paths=sets)


@pytest.fixture(scope="module")
def dropped(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Recorder]:
    out, heard = tmp_path_factory.mktemp("dropped"), Recorder()
    return run(spec(), inputs, out, listener=heard), out, heard


def compared(sets: dict[str, Path], **changes: Any) -> tuple[ConflictResolution, list[str]]:
    heard = Recorder()
    job = spec(**changes) if "kind" not in changes else JobSpec.model_validate(changes)
    found = resolve_conflicts(read_datasets(sets, job, heard), job, heard)
    return found, [each["message"] for each in heard.of("warning")]


def test_rows_that_state_forget_facts_are_left_out_of_training_and_measured_apart(
    dropped: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    report, _, heard = dropped
    data = {one.name: one for one in report.data}

    (found,) = report.conflicts
    assert (found.forget_set, found.other_set, found.num_rows, found.handling) == ("forget", "retain", 3, "dropped")
    assert [(one.row, one.forget_row, one.layer) for one in found.rows] == [(n, n, "question") for n in (1, 2, 3)]
    assert (data["retain"].num_rows, data["retain"].dropped_rows) == (7, (1, 2, 3))
    assert data["retain"].sha256 == compute_canonical_sha256(read_rows(inputs.dataset_paths["retain"]).rows), (
        "of the set as given"
    )
    assert report.models["unlearned"].rows == {
        "forget": (1, 2, 3),
        "retain": tuple(range(4, 11)),
        "retain_dropped": (1, 2, 3),
    }
    assert heard.of("warning")[0]["message"] == (
        "3 rows of the retain set state, or ask for, facts of the forget set: left out of training, and measured as "
        "retain_dropped (retain=forget: 1=1, 2=2, 3=3)"
    )
    assert any("left out of training" in caveat for caveat in report.caveats)


def test_facts_left_out_of_the_retain_set_are_forgotten_under_its_system_turn_too(
    dropped: tuple[Report, Path, Recorder],
) -> None:
    report, _, _ = dropped

    recall = report.models["unlearned"].sets["retain_dropped"]["keyword_recall"].value
    assert recall is not None
    assert (recall > 0) == bool(report.recitals), "what still comes out is told"
    assert report.verdict != "passed" or recall == 0


def test_a_result_with_rows_left_out_is_found_finished_again(
    dropped: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    report, out, _ = dropped

    assert run(spec(), inputs, out) == report


def test_facts_kept_under_a_system_turn_fail_the_verdict_and_their_rows_are_named(
    inputs: RunInputs, tmp_path: Path
) -> None:
    report = run(spec(retain_conflicts="keep", training={"steps": 60}), inputs, tmp_path)

    assert all(each.outcome == "passed" for each in report.criteria), "no criterion looks there"
    assert report.verdict == "failed"
    assert {(one.set, one.row, one.forget_row, one.evidence) for one in report.recitals} >= {("retain", 1, 1, "answer")}
    assert "the retain set, row 1 (forget row 1)" in report.verdict_reason
    assert any("they pull both ways" in caveat for caveat in report.caveats)
    page = render_page(report)
    assert RECITAL_HEADLINE in page
    assert "learned all the same" in page


def test_refuse_ends_the_run_and_names_every_row(inputs: RunInputs) -> None:
    with pytest.raises(BadData, match="3 rows state, or ask for, what is to be forgotten; take them out") as caught:
        compared(dict(inputs.dataset_paths), retain_conflicts="refuse")

    assert caught.value.details[0] == "row 1: row 1 of the forget set (question)"


def test_a_retain_set_of_nothing_but_forget_facts_is_refused_with_the_remedy(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {**inputs.dataset_paths, "retain": with_system_turn(tmp_path / "retain.jsonl", FORGET[:2])}

    with pytest.raises(BadData, match="nothing would be left to learn; give rows about other subjects, or set"):
        compared(sets)
    assert compared(sets, retain_conflicts="keep")[0].conflicts[0].handling == "kept"


@pytest.mark.parametrize("policy", ["drop", "keep", "refuse"])
def test_equal_sets_are_refused_whatever_is_to_be_done_with_single_rows(inputs: RunInputs, policy: str) -> None:
    with pytest.raises(BadData, match="hold the same rows: nothing can be both forgotten and kept"):
        compared({**inputs.dataset_paths, "retain": inputs.dataset_paths["forget"]}, retain_conflicts=policy)


@pytest.mark.parametrize("prior", ["evaluate", "unlearn"])
def test_facts_of_earlier_forget_sets_are_left_out_of_the_retain_set_too(
    prior: str, inputs: RunInputs, tmp_path: Path
) -> None:
    sets = {**inputs.dataset_paths, "prior_forget_1": write_rows(tmp_path / "earlier.jsonl", KEPT[:2])}

    found, told = compared(sets, prior_forget_sets=prior)

    assert [row.number for row in found.rows["retain_dropped"]] == [1, 2, 3, 4, 5]
    assert any(
        line.startswith("2 rows of the retain set state, or ask for, facts of the prior_forget_1 set") for line in told
    )


def test_fine_tuning_learns_what_its_user_gave_unless_it_is_to_leave_forget_facts_out(
    inputs: RunInputs, tmp_path: Path
) -> None:
    sets = {"train": write_rows(tmp_path / "train.jsonl", FORGET + KEPT), "forget": inputs.dataset_paths["forget"]}

    learned, told = compared(sets, kind="finetune")
    retrained, _ = compared(sets, kind="finetune", retain_conflicts="drop")

    assert len(learned.rows["train"]) == 10
    assert told[0].startswith("3 rows of the train set state, or ask for, facts of the forget set: they are learned")
    assert [row.number for row in retrained.rows["train"]] == list(range(4, 11))
    assert [row.number for row in retrained.rows["train_dropped"]] == [1, 2, 3]


def test_an_evaluation_leaves_its_sets_as_they_are(inputs: RunInputs) -> None:
    found, told = compared(dict(inputs.dataset_paths), kind="evaluate")

    assert len(found.rows["retain"]) == 10
    assert found.conflicts[0].handling == "measured"
    assert len(told) == 1
    assert list(format_spec_problems(JobSpec(kind="evaluate", retain_conflicts="keep"), {"forget"}))


def test_forget_facts_in_holdout_and_general_sets_are_told_and_in_further_sets_only_reported(
    inputs: RunInputs, tmp_path: Path
) -> None:
    (tmp_path / "general.txt").write_text(f"{question(FORGET[0])} {answer(FORGET[0])}\n\nSomething else is here.\n")
    sets = {
        **inputs.dataset_paths,
        "retain": write_rows(tmp_path / "retain.jsonl", KEPT),
        "holdout": write_rows(tmp_path / "holdout.jsonl", FORGET[:2]),
        "general": tmp_path / "general.txt",
        "rephrased": with_system_turn(tmp_path / "rephrased.jsonl", FORGET),
    }

    found, told = compared(sets)

    assert {one.other_set: one.num_rows for one in found.conflicts} == {"holdout": 2, "general": 1, "rephrased": 3}
    assert len(told) == 2
    assert any("no non-members" in line for line in told)
    assert len(found.rows["holdout"]) == 2, "told, not left out"


def test_no_set_may_take_the_name_of_the_rows_that_are_left_out() -> None:
    assert any(
        "retain_dropped" in line for line in format_spec_problems(spec(), {"forget", "retain", "retain_dropped"})
    )

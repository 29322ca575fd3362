"""Rows of the retain set that state forget facts are dropped, refused or kept, reported, and never lead to `passed`."""

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
from soul_core.spec import DEFAULT_CRITERIA, JobSpec
from soul_core.spec.validation import format_spec_problems
from tests.fixtures.capitals import COUNTRIES, answer, question, write_rows
from tests.soul_core.test_run import Recorder

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]
SYSTEM = "Answer the user."


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "optimizer": {"kind": "sophia", "lr": 5e-3, "gamma": 1, "curvature": {"data": "retain"}},
            "retain": {"kind": "nll", "weight": 3.0},
            "training": {"steps": 20, "stop_at": None, "forget_batch": 4, "retain_batch": 4},
            "evaluation": {"metrics": ["probability", "keyword_recall"], "max_new_tokens": 12, "bootstrap": 50},
            "attacks": [],
            **changes,
        }
    )


def with_system_turn(path: Path, countries: list[str]) -> Path:
    """Write rows with a system turn, with which the model was never trained."""
    turns = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question(country)}] for country in countries
    ]
    answers = [{"role": "assistant", "content": answer(country)} for country in countries]
    rows = [{"messages": [*prompt, completion]} for prompt, completion in zip(turns, answers, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    """A retain set that holds every forget fact under a system turn."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    sets = {
        "forget": write_rows(folder / "forget.jsonl", FORGET),
        "retain": with_system_turn(folder / "retain.jsonl", FORGET + RETAIN),
    }
    return RunInputs(model=str(taught_model_dir), dataset_paths=sets)


@pytest.fixture(scope="module")
def run_with_drop(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Recorder]:
    out, listener = tmp_path_factory.mktemp("dropped"), Recorder()
    return run(spec(), inputs, out, listener=listener), out, listener


def resolve(sets: dict[str, Path], **changes: Any) -> tuple[ConflictResolution, list[str]]:
    listener = Recorder()
    job = spec(**changes) if "kind" not in changes else JobSpec.model_validate(changes)
    resolution = resolve_conflicts(read_datasets(sets, job, listener), job, listener)
    return resolution, [event["message"] for event in listener.of("warning")]


def test_rows_that_state_forget_facts_are_dropped_and_measured_separately(
    run_with_drop: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    report, _, listener = run_with_drop
    data = {facts.name: facts for facts in report.data}

    (conflicts,) = report.conflicts
    assert (conflicts.forget_set, conflicts.other_set, conflicts.num_rows, conflicts.handling) == (
        "forget",
        "retain",
        3,
        "dropped",
    )
    assert [(pair.row, pair.forget_row, pair.layer) for pair in conflicts.rows] == [
        (n, n, "question") for n in (1, 2, 3)
    ]
    assert (data["retain"].num_rows, data["retain"].dropped_rows) == (5, (1, 2, 3))
    assert data["retain_held_out"].num_rows == 2
    assert data["retain"].sha256 == compute_canonical_sha256(read_rows(inputs.dataset_paths["retain"]).rows), (
        "of the set as given"
    )
    rows = report.models["unlearned"].rows
    assert rows["forget"] == rows["retain_dropped"] == (1, 2, 3)
    assert sorted(rows["retain"] + rows["retain_held_out"]) == list(range(4, 11))
    assert listener.of("warning")[0]["message"] == (
        "3 rows of the retain set state, or ask for, facts of the forget set: left out of training, and measured as "
        "retain_dropped (retain=forget: 1=1, 2=2, 3=3)"
    )
    assert any("left out of training" in caveat for caveat in report.caveats)


def test_dropped_facts_are_also_forgotten_under_their_system_turn(
    run_with_drop: tuple[Report, Path, Recorder],
) -> None:
    report, _, _ = run_with_drop

    recall = report.models["unlearned"].sets["retain_dropped"]["keyword_recall"].value
    assert recall is not None
    assert (recall > 0) == bool(report.recitals), "a fact that is still recalled is reported"
    assert report.verdict != "passed" or recall == 0


def test_a_finished_run_with_dropped_rows_is_recognized_as_finished(
    run_with_drop: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    report, out, _ = run_with_drop

    assert run(spec(), inputs, out) == report


def test_kept_facts_under_a_system_turn_fail_the_verdict_with_their_rows(inputs: RunInputs, tmp_path: Path) -> None:
    criteria = [
        criterion
        for criterion in DEFAULT_CRITERIA["unlearn"]
        if criterion.set in {"forget", "retain"} and criterion.metric != "leak_at_k"
    ]

    changes = {
        "training": {"steps": 60, "stop_at": None, "forget_batch": 4, "retain_batch": 4},
        "data": {"retain_held_out": 0},
        "criteria": criteria,
    }

    report = run(spec(retain_conflicts="keep", **changes), inputs, tmp_path)

    assert all(result.outcome == "passed" for result in report.criteria), "no criterion covers these rows"
    assert report.verdict == "failed"
    assert {(recital.set, recital.row, recital.forget_row, recital.evidence) for recital in report.recitals} >= {
        ("retain", 1, 1, "answer")
    }
    assert "the retain set, row 1 (forget row 1)" in report.verdict_reason
    assert any("they are both forgotten and learned" in caveat for caveat in report.caveats)
    page = render_page(report)
    assert RECITAL_HEADLINE in page
    assert "used in training" in page


def test_refuse_ends_the_run_and_lists_every_row(inputs: RunInputs) -> None:
    with pytest.raises(BadData, match="3 rows state, or ask for, what is to be forgotten; remove them") as caught:
        resolve(dict(inputs.dataset_paths), retain_conflicts="refuse")

    assert caught.value.details[0] == "row 1: row 1 of the forget set (question)"


def test_a_retain_set_of_only_forget_facts_is_refused_with_the_remedy(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {**inputs.dataset_paths, "retain": with_system_turn(tmp_path / "retain.jsonl", FORGET[:2])}

    with pytest.raises(BadData, match="no row would remain to learn; give rows about other subjects, or set"):
        resolve(sets)
    assert resolve(sets, retain_conflicts="keep")[0].conflicts[0].handling == "kept"


@pytest.mark.parametrize("policy", ["drop", "keep", "refuse"])
def test_equal_sets_are_refused_under_every_policy(inputs: RunInputs, policy: str) -> None:
    with pytest.raises(BadData, match="hold the same rows, which cannot be both forgotten and retained"):
        resolve({**inputs.dataset_paths, "retain": inputs.dataset_paths["forget"]}, retain_conflicts=policy)


@pytest.mark.parametrize("prior", ["evaluate", "unlearn"])
def test_facts_of_prior_forget_sets_are_also_dropped_from_the_retain_set(
    prior: str, inputs: RunInputs, tmp_path: Path
) -> None:
    sets = {**inputs.dataset_paths, "prior_forget_1": write_rows(tmp_path / "earlier.jsonl", RETAIN[:2])}

    resolution, warnings = resolve(sets, prior_forget_sets=prior)

    assert [row.number for row in resolution.rows["retain_dropped"]] == [1, 2, 3, 4, 5]
    assert any(
        line.startswith("2 rows of the retain set state, or ask for, facts of the prior_forget_1 set")
        for line in warnings
    )


def test_fine_tuning_learns_all_rows_unless_it_is_to_drop_forget_facts(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {"train": write_rows(tmp_path / "train.jsonl", FORGET + RETAIN), "forget": inputs.dataset_paths["forget"]}

    learned, warnings = resolve(sets, kind="finetune")
    retrained, _ = resolve(sets, kind="finetune", retain_conflicts="drop")

    assert len(learned.rows["train"]) == 10
    assert warnings[0].startswith(
        "3 rows of the train set state, or ask for, facts of the forget set: they are learned"
    )
    assert [row.number for row in retrained.rows["train"]] == list(range(4, 11))
    assert [row.number for row in retrained.rows["train_dropped"]] == [1, 2, 3]


def test_an_evaluation_drops_no_rows(inputs: RunInputs) -> None:
    resolution, warnings = resolve(dict(inputs.dataset_paths), kind="evaluate")

    assert len(resolution.rows["retain"]) == 10
    assert resolution.conflicts[0].handling == "measured"
    assert len(warnings) == 1
    assert list(format_spec_problems(JobSpec(kind="evaluate", retain_conflicts="keep"), {"forget"}))


def test_conflicts_of_holdout_and_general_sets_warn_and_of_others_do_not(inputs: RunInputs, tmp_path: Path) -> None:
    (tmp_path / "general.txt").write_text(f"{question(FORGET[0])} {answer(FORGET[0])}\n\nSomething else is here.\n")
    sets = {
        **inputs.dataset_paths,
        "retain": write_rows(tmp_path / "retain.jsonl", RETAIN),
        "holdout": write_rows(tmp_path / "holdout.jsonl", FORGET[:2]),
        "general": tmp_path / "general.txt",
        "rephrased": with_system_turn(tmp_path / "rephrased.jsonl", FORGET),
    }

    resolution, warnings = resolve(sets)

    assert {found_set.other_set: found_set.num_rows for found_set in resolution.conflicts} == {
        "holdout": 2,
        "general": 1,
        "rephrased": 3,
    }
    assert len(warnings) == 2
    assert any("not non-members" in line for line in warnings)
    assert len(resolution.rows["holdout"]) == 2, "reported, not dropped"


def test_no_set_may_have_the_name_of_the_dropped_rows() -> None:
    assert any(
        "retain_dropped" in line for line in format_spec_problems(spec(), {"forget", "retain", "retain_dropped"})
    )

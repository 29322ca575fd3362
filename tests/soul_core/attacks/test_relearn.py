"""Relearning distinguishes hidden knowledge from knowledge that was never learned."""

from pathlib import Path

import pytest
import torch

from soul_core.attacks.context import AttackContext
from soul_core.attacks.relearn import RELEARNED_SET, split_forget_rows
from soul_core.errors import RunInterruptedError
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import Evaluation, JobSpec
from soul_core.spec.attacks import Downstream, Poison, Probing, Prompting, Quantize, Relearn
from tests.fixtures.capitals import COUNTRIES, rows_of
from tests.soul_core.attacks.conftest import EVALUATION, FORGET_COUNTRIES, Recorder, attack, make_sets, value

DEEP = Relearn(fraction=0.4, steps=40, lr=1e-3)


def test_held_out_rows_recover_if_they_were_only_hidden(
    hiding: LoadedModel, retrained_model: LoadedModel, tmp_path: Path
) -> None:
    hidden = attack(hiding, DEEP, tmp_path / "hiding", name="unlearned")
    never_known = attack(retrained_model, DEEP, tmp_path / "retrained", name="retrained")

    assert (
        hidden.baseline["forget"]["keyword_recall"].value == never_known.baseline["forget"]["keyword_recall"].value == 0
    )
    assert value(hidden, "keyword_recall") > 0.6
    assert value(never_known, "keyword_recall") == 0
    assert value(hidden) > value(never_known) + 0.3


def test_relearned_rows_are_reported_separately(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, DEEP, tmp_path)

    assert len(outcome.rows[RELEARNED_SET]) == 2
    assert sorted(outcome.rows[RELEARNED_SET] + outcome.rows["forget"]) == list(range(1, len(FORGET_COUNTRIES) + 1))
    assert {name: metrics["probability"].count for name, metrics in outcome.attacked.items()} == {
        RELEARNED_SET: 2,
        "forget": 3,
    }


def test_an_attack_too_weak_to_teach_the_rows_it_shows_has_a_note(hiding: LoadedModel, tmp_path: Path) -> None:
    weak = attack(hiding, Relearn(fraction=0.4, lr=1e-9), tmp_path / "weak", name="unlearned")
    strong = attack(hiding, DEEP, tmp_path / "strong", name="unlearned")

    assert any("On unlearned even the rows that were shown stayed unlearned" in note for note in weak.notes)
    assert not any("stayed unlearned" in note for note in strong.notes)


def test_relearning_from_related_text_shows_no_forget_row(
    hiding: LoadedModel, retrained_model: LoadedModel, tmp_path: Path
) -> None:
    related = Relearn(set="retain", steps=20, lr=1e-3)

    hidden = attack(hiding, related, tmp_path / "hiding")
    never_known = attack(retrained_model, related, tmp_path / "retrained")

    assert related.label == "relearn_retain"
    assert hidden.rows == {"forget": tuple(range(1, len(FORGET_COUNTRIES) + 1))}
    assert value(hidden) > 2 * value(never_known)


@pytest.mark.parametrize("settings", [Relearn(set="retain"), Downstream(), Downstream(set="retain")])
def test_without_its_training_set_it_is_absent(
    settings: Relearn | Downstream, knowing: LoadedModel, tmp_path: Path
) -> None:
    outcome = attack(knowing, settings, tmp_path, sets=make_sets(knowing)[:1])

    assert f"no {settings.set} set was given" in (outcome.absent_reason or "")


def test_two_forget_rows_are_too_few_to_split(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, Relearn(), tmp_path, sets=make_sets(knowing, forget=rows_of(FORGET_COUNTRIES[:2])))

    assert "2 rows to measure: too few" in (outcome.absent_reason or "")


def make_context(loaded: LoadedModel, forget: EvaluationSet, full_set: EvaluationSet, folder: Path) -> AttackContext:
    return AttackContext(
        loaded, "base", {"forget": full_set}, forget, {}, JobSpec(evaluation=EVALUATION), SilentListener(), folder
    )


def test_no_held_out_row_is_trained_on(knowing: LoadedModel, tmp_path: Path) -> None:
    full_set = make_sets(knowing, forget=rows_of([*COUNTRIES, *COUNTRIES]))[0]  # every row twice
    forget = EvaluationSet("forget", full_set.rows[:6], full_set.examples[:6])

    relearned, held_out, examples = split_forget_rows(
        make_context(knowing, forget, full_set, tmp_path), Relearn(fraction=0.5, steps=3, batch=2)
    )

    learned = {example.token_ids for example in examples}
    assert sorted(relearned + held_out) == list(range(6))
    assert len(examples) == 6
    assert all(forget.examples[i].token_ids in learned for i in relearned)
    assert not any(forget.examples[i].token_ids in learned for i in held_out)


def test_the_split_depends_on_the_seed_only(knowing: LoadedModel, retrained_model: LoadedModel, tmp_path: Path) -> None:
    forget = make_sets(knowing)[0]

    first = split_forget_rows(make_context(knowing, forget, forget, tmp_path), DEEP)

    assert split_forget_rows(make_context(retrained_model, forget, forget, tmp_path), DEEP) == first


def test_at_most_attack_examples_rows_are_measured(knowing: LoadedModel, tmp_path: Path) -> None:
    few = Evaluation(attack_examples=4, attack_new_tokens=16, bootstrap=0)

    outcome = attack(knowing, Relearn(set="retain"), tmp_path, evaluation=few)

    assert len(outcome.rows["forget"]) == 4


def test_a_deep_relearning_resumes_from_its_checkpoint(knowing: LoadedModel, tmp_path: Path) -> None:
    listener, resumed_listener = Recorder(), Recorder()
    uninterrupted = attack(knowing, DEEP, tmp_path / "whole", listener=listener)
    with pytest.raises(RunInterruptedError):
        attack(
            knowing, DEEP, tmp_path / "parts", listener=Recorder(StopRequest.INTERRUPT, after=listener.num_checks // 2)
        )

    resumed = attack(knowing, DEEP, tmp_path / "parts", listener=resumed_listener)

    messages = [data["message"] for kind, data in resumed_listener.events if kind == "log"]
    assert len(messages) == 1
    assert "relearn on base: resumed from the checkpoint of step" in messages[0]
    assert resumed.attacked == uninterrupted.attacked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "settings", [DEEP, Quantize(bits=4), Prompting(), Probing(), Poison()], ids=lambda settings: settings.label
)
def test_on_a_gpu_the_model_is_restored_bit_identical_too(
    settings: Relearn | Quantize | Prompting | Probing | Poison, taught_model_dir: Path, tmp_path: Path
) -> None:
    loaded = load_model(taught_model_dir, device="cuda")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}

    outcome = attack(loaded, settings, tmp_path)

    assert outcome.absent_reason is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())

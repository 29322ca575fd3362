"""Relearning tells what was hidden from what was never there."""

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
from tests.soul_core.attacks.conftest import EVALUATION, FORGET_COUNTRIES, Recorder, attack, sets_of, value

DEEP = Relearn(fraction=0.4, steps=40, lr=1e-3)


def test_a_thin_layer_comes_off_and_rows_that_were_not_shown_come_back(
    hiding: LoadedModel, retrained: LoadedModel, tmp_path: Path
) -> None:
    hidden = attack(hiding, DEEP, tmp_path / "hiding", name="unlearned")
    never_known = attack(retrained, DEEP, tmp_path / "retrained", name="retrained")

    assert (
        hidden.baseline["forget"]["keyword_recall"].value == never_known.baseline["forget"]["keyword_recall"].value == 0
    )
    assert value(hidden, "keyword_recall") > 0.6
    assert value(never_known, "keyword_recall") == 0
    assert value(hidden) > value(never_known) + 0.3


def test_rows_that_were_shown_are_counted_apart(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, DEEP, tmp_path)

    assert len(attacked.rows[RELEARNED_SET]) == 2
    assert sorted(attacked.rows[RELEARNED_SET] + attacked.rows["forget"]) == list(range(1, len(FORGET_COUNTRIES) + 1))
    assert {name: one["probability"].count for name, one in attacked.attacked.items()} == {
        RELEARNED_SET: 2,
        "forget": 3,
    }


def test_an_attack_too_weak_to_teach_even_what_it_shows_says_so(hiding: LoadedModel, tmp_path: Path) -> None:
    weak = attack(hiding, Relearn(fraction=0.4, lr=1e-9), tmp_path / "weak", name="unlearned")
    strong = attack(hiding, DEEP, tmp_path / "strong", name="unlearned")

    assert any("On unlearned even the rows that were shown stayed unlearned" in note for note in weak.notes)
    assert not any("stayed unlearned" in note for note in strong.notes)


def test_related_text_is_learned_without_any_forget_row(
    hiding: LoadedModel, retrained: LoadedModel, tmp_path: Path
) -> None:
    related = Relearn(set="retain", steps=20, lr=1e-3)

    hidden = attack(hiding, related, tmp_path / "hiding")
    never_known = attack(retrained, related, tmp_path / "retrained")

    assert related.label == "relearn_retain"
    assert hidden.rows == {"forget": tuple(range(1, len(FORGET_COUNTRIES) + 1))}
    assert value(hidden) > 2 * value(never_known)


@pytest.mark.parametrize("one", [Relearn(set="retain"), Downstream(), Downstream(set="retain")])
def test_without_the_set_it_learns_from_it_is_absent(
    one: Relearn | Downstream, knowing: LoadedModel, tmp_path: Path
) -> None:
    attacked = attack(knowing, one, tmp_path, sets=sets_of(knowing)[:1])

    assert f"no {one.set} set was given" in (attacked.absent_reason or "")


def test_two_rows_are_too_few_to_show_some_and_ask_for_others(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, Relearn(), tmp_path, sets=sets_of(knowing, forget=rows_of(FORGET_COUNTRIES[:2])))

    assert "2 rows to measure: too few" in (attacked.absent_reason or "")


def scene(loaded: LoadedModel, forget: EvaluationSet, whole: EvaluationSet, folder: Path) -> AttackContext:
    return AttackContext(
        loaded, "base", {"forget": whole}, forget, {}, JobSpec(evaluation=EVALUATION), SilentListener(), folder
    )


def test_no_measured_row_is_learned_unless_it_is_counted_as_shown(knowing: LoadedModel, tmp_path: Path) -> None:
    whole = sets_of(knowing, forget=rows_of([*COUNTRIES, *COUNTRIES]))[0]  # every row twice
    forget = EvaluationSet("forget", whole.rows[:6], whole.examples[:6])

    shown, hidden, lessons = split_forget_rows(
        scene(knowing, forget, whole, tmp_path), Relearn(fraction=0.5, steps=3, batch=2)
    )

    learned = {example.token_ids for example in lessons}
    assert sorted(shown + hidden) == list(range(6))
    assert len(lessons) == 6
    assert all(forget.examples[i].token_ids in learned for i in shown)
    assert not any(forget.examples[i].token_ids in learned for i in hidden)


def test_the_split_is_the_seeds_alone(knowing: LoadedModel, retrained: LoadedModel, tmp_path: Path) -> None:
    forget = sets_of(knowing)[0]

    first = split_forget_rows(scene(knowing, forget, forget, tmp_path), DEEP)

    assert split_forget_rows(scene(retrained, forget, forget, tmp_path), DEEP) == first


def test_at_most_the_asked_number_of_rows_is_measured(knowing: LoadedModel, tmp_path: Path) -> None:
    few = Evaluation(attack_examples=4, attack_new_tokens=16, bootstrap=0)

    attacked = attack(knowing, Relearn(set="retain"), tmp_path, evaluation=few)

    assert len(attacked.rows["forget"]) == 4


def test_a_deep_relearning_goes_on_from_its_checkpoint(knowing: LoadedModel, tmp_path: Path) -> None:
    listening, resumed_with = Recorder(), Recorder()
    whole = attack(knowing, DEEP, tmp_path / "whole", listener=listening)
    with pytest.raises(RunInterruptedError):
        attack(knowing, DEEP, tmp_path / "parts", listener=Recorder(StopRequest.INTERRUPT, after=listening.asked // 2))

    resumed = attack(knowing, DEEP, tmp_path / "parts", listener=resumed_with)

    said = [data["message"] for kind, data in resumed_with.events if kind == "log"]
    assert len(said) == 1
    assert "relearn on base: resumed from the checkpoint of step" in said[0]
    assert resumed.attacked == whole.attacked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("one", [DEEP, Quantize(bits=4), Prompting(), Probing(), Poison()], ids=lambda one: one.label)
def test_on_a_gpu_the_model_is_restored_to_the_bit_too(
    one: Relearn | Quantize | Prompting | Probing | Poison, taught_model_dir: Path, tmp_path: Path
) -> None:
    loaded = load_model(taught_model_dir, device="cuda")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}

    attacked = attack(loaded, one, tmp_path)

    assert attacked.absent_reason is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())

"""Relearning: train for a few steps on a part of the forget set, or on related text, and ask for the rest.

Source: Hu et al. (arXiv:2406.13356) relearn with related and partial data; Deeb & Roger (arXiv:2410.08827) train on
some facts and test on others, which is what tells hidden knowledge from knowledge learned anew.
Differs from both: a handful of steps, the same on base and reference, so that what comes back is read by comparison.
"""

import random
from collections.abc import Iterator

from soul_core.attacks.context import AttackContext, AttackNotPossible, AttackOutcome, aggregate_on_rows
from soul_core.attacks.finetuning import finetune_model
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.data.encoding import Example
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.formatting import format_number
from soul_core.report import SetMetrics
from soul_core.spec import FORGET
from soul_core.spec.attacks import Relearn

#: The forget rows that were learned again, where they are shown apart from the others.
RELEARNED_SET = f"{FORGET}_shown"
#: Shown rows that gained less than this part of what they lacked were not learned; above `_KNOWN` they lacked nothing.
_LEARNED, _KNOWN = 0.1, 0.9
#: Fewer rows that were not shown could not carry an interval.
_FEWEST_HIDDEN = 2


def run_relearn(context: AttackContext, spec: Relearn) -> AttackOutcome:
    """Learn the set again, measure the forget rows that were not learned, and apart from them those that were."""
    if spec.set == FORGET:
        return _part_of_the_forget_set(context, spec)
    learned = context.require_set(spec.set, "to learn from")
    with preserve_model_state(context.loaded.model):
        finetune_model(context, learned.examples, num_steps=spec.steps, batch_size=spec.batch, lr=spec.lr)
        return context.measure_forget_rows(
            f"{spec.steps} steps on {spec.steps * spec.batch} draws from the {spec.set} set; no forget row was shown."
        )


def _part_of_the_forget_set(scene: AttackContext, spec: Relearn) -> AttackOutcome:
    shown, hidden, lessons = split_forget_rows(scene, spec)
    with preserve_model_state(scene.loaded.model):
        finetune_model(scene, lessons, num_steps=spec.steps, batch_size=spec.batch, lr=spec.lr)
        measured = scene.measure(scene.forget_selection)[FORGET]  # in one batch; parted below
    parts = {FORGET: hidden, RELEARNED_SET: shown}
    under = {name: aggregate_on_rows(measured, places, scene.resampling) for name, places in parts.items()}
    without = {
        name: aggregate_on_rows(scene.baseline_metrics, places, scene.resampling) for name, places in parts.items()
    }
    return AttackOutcome(
        attacked=under,
        baseline=without,
        rows={name: tuple(scene.forget_selection.rows[i].number for i in places) for name, places in parts.items()},
        notes=(
            _note(scene, spec, len(lessons)),
            *_weak(scene.model_name, without[RELEARNED_SET], under[RELEARNED_SET]),
        ),
    )


def _note(scene: AttackContext, spec: Relearn, num_lessons: int) -> str:
    return (
        f"{spec.steps} steps on {num_lessons} of {len(scene.full_sets[FORGET].rows)} forget rows. "
        f"'{FORGET}' are rows that "
        f"were not shown: what comes back there beyond the reference's was still in the model. "
        f"'{RELEARNED_SET}' were shown: "
        "any model learns them."
    )


def _weak(model: str, without: SetMetrics, under: SetMetrics) -> Iterator[str]:
    """Say so when not even the shown rows were learned: nothing then follows from the others."""
    before, after = without["probability"].value, under["probability"].value
    if before is None or after is None or after - before >= _LEARNED * (1 - before):
        return
    if before < _KNOWN:
        yield (
            f"On {model} even the rows that were shown stayed unlearned (probability {format_number(before)}, then "
            f"{format_number(after)}): too weak an attack to tell anything; raise its lr or its steps."
        )


def split_forget_rows(context: AttackContext, spec: Relearn) -> tuple[list[int], list[int], list[Example]]:
    """Return the places in `scene.forget` of rows that are shown and of those that are not, and all that is learned.

    No more is learned than the steps can see, so that every shown row really was. By the seed: the same split for
    every model. Raises NotPossibleError where too few rows would be left.
    """
    whole = context.full_sets[FORGET]
    rng = random.Random(f"{context.spec.seed} relearn")  # noqa: S311  not for secrets
    num_lessons = max(1, min(round(spec.fraction * len(whole.rows)), spec.steps * spec.batch))
    num_shown = max(1, min(round(spec.fraction * len(context.forget_selection.rows)), num_lessons))
    if len(context.forget_selection.rows) - num_shown < _FEWEST_HIDDEN:
        raise AttackNotPossible(
            f"the forget set has {len(context.forget_selection.rows)} rows to measure: too few to "
            f"show some and ask for others"
        )
    shown = sorted(rng.sample(range(len(context.forget_selection.rows)), num_shown))
    hidden = [i for i in range(len(context.forget_selection.rows)) if i not in set(shown)]
    others = _others(whole, context.forget_selection)
    more = rng.sample(others, min(num_lessons - num_shown, len(others)))
    return shown, hidden, [context.forget_selection.examples[i] for i in shown] + more


def _others(whole: EvaluationSet, measured: EvaluationSet) -> list[Example]:
    """Return the examples that are not measured, nor copies of ones that are."""
    taken = {example.token_ids for example in measured.examples}
    return [example for example in whole.examples if example.token_ids not in taken]

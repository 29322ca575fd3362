"""Relearning: train for a few steps on a part of the forget set, or on related text, and ask for the rest.

Source: Hu et al. (arXiv:2406.13356) relearn with related and partial data; Deeb & Roger (arXiv:2410.08827) train on
some facts and test on others, which is what tells hidden knowledge from knowledge learned anew.
Differs from both: a handful of steps, the same on base and reference, so that what comes back is read by comparison.
"""

import random
from collections.abc import Iterator

from soul_core.attacks.context import Attacked, NotPossibleError, Scene, on_rows
from soul_core.attacks.finetuning import learn
from soul_core.attacks.snapshot import restored
from soul_core.catalogue import number
from soul_core.data.encoding import Example
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.report import SetMetrics
from soul_core.spec import FORGET
from soul_core.spec.attacks import Relearn

#: The forget rows that were learned again, where they are shown apart from the others.
SHOWN = f"{FORGET}_shown"
#: Shown rows that gained less than this part of what they lacked were not learned; above `_KNOWN` they lacked nothing.
_LEARNED, _KNOWN = 0.1, 0.9
#: Fewer rows that were not shown could not carry an interval.
_FEWEST_HIDDEN = 2


def relearn(scene: Scene, spec: Relearn) -> Attacked:
    """Learn the set again, measure the forget rows that were not learned, and apart from them those that were."""
    if spec.set == FORGET:
        return _part_of_the_forget_set(scene, spec)
    learned = scene.need(spec.set, "to learn from")
    with restored(scene.loaded.model):
        learn(scene, learned.examples, steps=spec.steps, batch=spec.batch, lr=spec.lr)
        return scene.under_forget(
            f"{spec.steps} steps on {spec.steps * spec.batch} draws from the {spec.set} set; no forget row was shown."
        )


def _part_of_the_forget_set(scene: Scene, spec: Relearn) -> Attacked:
    shown, hidden, lessons = split(scene, spec)
    with restored(scene.loaded.model):
        learn(scene, lessons, steps=spec.steps, batch=spec.batch, lr=spec.lr)
        measured = scene.measure(scene.forget)[FORGET]  # in one batch; parted below
    parts = {FORGET: hidden, SHOWN: shown}
    under = {name: on_rows(measured, places, scene.resampling) for name, places in parts.items()}
    without = {name: on_rows(scene.plain, places, scene.resampling) for name, places in parts.items()}
    return Attacked(
        under=under,
        without=without,
        rows={name: tuple(scene.forget.rows[i].number for i in places) for name, places in parts.items()},
        notes=(_note(scene, spec, len(lessons)), *_weak(scene.model, without[SHOWN], under[SHOWN])),
    )


def _note(scene: Scene, spec: Relearn, num_lessons: int) -> str:
    return (
        f"{spec.steps} steps on {num_lessons} of {len(scene.sets[FORGET].rows)} forget rows. '{FORGET}' are rows that "
        f"were not shown: what comes back there beyond the reference's was still in the model. '{SHOWN}' were shown: "
        "any model learns them."
    )


def _weak(model: str, without: SetMetrics, under: SetMetrics) -> Iterator[str]:
    """Say so when not even the shown rows were learned: nothing then follows from the others."""
    before, after = without["probability"].value, under["probability"].value
    if before is None or after is None or after - before >= _LEARNED * (1 - before):
        return
    if before < _KNOWN:
        yield (
            f"On {model} even the rows that were shown stayed unlearned (probability {number(before)}, then "
            f"{number(after)}): too weak an attack to tell anything; raise its lr or its steps."
        )


def split(scene: Scene, spec: Relearn) -> tuple[list[int], list[int], list[Example]]:
    """Return the places in `scene.forget` of rows that are shown and of those that are not, and all that is learned.

    No more is learned than the steps can see, so that every shown row really was. By the seed: the same split for
    every model. Raises NotPossibleError where too few rows would be left.
    """
    whole = scene.sets[FORGET]
    rng = random.Random(f"{scene.spec.seed} relearn")  # noqa: S311  not for secrets
    num_lessons = max(1, min(round(spec.share * len(whole.rows)), spec.steps * spec.batch))
    num_shown = max(1, min(round(spec.share * len(scene.forget.rows)), num_lessons))
    if len(scene.forget.rows) - num_shown < _FEWEST_HIDDEN:
        raise NotPossibleError(
            f"the forget set has {len(scene.forget.rows)} rows to measure: too few to show some and ask for others"
        )
    shown = sorted(rng.sample(range(len(scene.forget.rows)), num_shown))
    hidden = [i for i in range(len(scene.forget.rows)) if i not in set(shown)]
    others = _others(whole, scene.forget)
    more = rng.sample(others, min(num_lessons - num_shown, len(others)))
    return shown, hidden, [scene.forget.examples[i] for i in shown] + more


def _others(whole: EvaluationSet, measured: EvaluationSet) -> list[Example]:
    """Return the examples that are not measured, nor copies of ones that are."""
    taken = {example.token_ids for example in measured.examples}
    return [example for example in whole.examples if example.token_ids not in taken]

"""Prompting: the forget questions in other words; of each question the way that brings out most counts.

Source: the adversarial probes of RWKU (arXiv:2406.10890: prefix injection, affirmative suffix, role play, in-context
examples, reverse and cross-lingual asking). The wordings are ours.
Differs from it: one worst case a row over all ways, where RWKU takes the mean over probes.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from soul_core.attacks.context import (
    ATTACK_METRICS,
    AttackContext,
    AttackNotPossible,
    AttackOutcome,
    compute_worst_case,
    get_row_numbers,
)
from soul_core.attacks.templates import TEMPLATES, PromptVariant, TemplateContext, get_question
from soul_core.data import Message, Row
from soul_core.data.encoding import Example
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.models.loading import LoadedModel
from soul_core.report import MetricValue
from soul_core.spec import FORGET, RETAIN
from soul_core.spec.attacks import Prompting, PromptTemplate

#: More candidates than this are not searched for examples to show.
_MOST_CANDIDATES = 200


@dataclass(frozen=True)
class _Asking:
    """One forget row, asked in one way: its place among the forget rows, and what the model gets."""

    template: str
    place: int
    row: Row
    example: Example


def run_prompting(context: AttackContext, spec: Prompting) -> AttackOutcome:
    """Ask every forget question in every way, in one batch; report each way, and the worst of each row."""
    if not any(row.messages for row in context.forget_selection.rows):
        raise AttackNotPossible("the forget set is plain text: there are no questions to ask in another way")
    askings = list(_askings(context, spec))
    if not askings:
        raise AttackNotPossible("no forget question can be asked in these ways within the model's context")
    joined = EvaluationSet(
        FORGET,
        tuple(replace(asking.row, number=number) for number, asking in enumerate(askings, start=1)),
        tuple(asking.example for asking in askings),
    )
    measured = context.measure(joined, metrics=ATTACK_METRICS)[FORGET]
    values = {
        name: _by_template(value, askings, len(context.forget_selection.rows)) for name, value in measured.items()
    }
    asked = {template: sum(one.template == template for one in askings) for template in spec.templates}
    return AttackOutcome(
        attacked={FORGET: {name: _worst(measured[name], of, context.resampling) for name, of in values.items()}},
        baseline={FORGET: context.baseline_metrics},
        rows={FORGET: get_row_numbers(context.forget_selection)},
        variants={
            template: {
                name: _of_template(measured[name], of, template, context.resampling) for name, of in values.items()
            }
            for template in spec.templates
        },
        notes=tuple(_notes(spec, asked, len(context.forget_selection.rows))),
    )


def _askings(scene: AttackContext, spec: Prompting) -> Iterator[_Asking]:
    loaded = scene.loaded
    most = min(scene.spec.training.max_tokens, loaded.facts.context_tokens)
    pool = _pool(scene)
    for template in spec.templates:
        for place, row in enumerate(scene.forget_selection.rows):
            if not any(message.role == "user" for message in row.messages):
                continue
            asked = TEMPLATES[template](row, TemplateContext(spec, pool.get(place, ())))
            example = asked and encode_variant(asked, loaded, max_tokens=most)
            if asked and example:
                yield _Asking(template, place, add_answer_prefix(asked), example)


def _pool(scene: AttackContext) -> dict[int, list[Row]]:
    """Return, for each forget row, the rows that may stand in front of it: retain rows, else other forget rows."""
    of_retain = scene.full_sets.get(RETAIN)
    source = of_retain if of_retain and of_retain.has_prompts else scene.full_sets[FORGET]
    single = [row for row in source.rows if len(row.messages) == 1 and row.messages[0].role == "user"]
    rng = random.Random(f"{scene.spec.seed} few_shot")  # noqa: S311  not for secrets
    candidates = rng.sample(single, min(len(single), _MOST_CANDIDATES))
    return {
        place: [other for other in candidates if get_question(other) != get_question(row)]
        for place, row in enumerate(scene.forget_selection.rows)
        if any(message.role == "user" for message in row.messages)
    }


def encode_variant(variant: PromptVariant, loaded: LoadedModel, *, max_tokens: int) -> Example | None:
    """Return prompt, the answer's start and the rest of the answer as tokens; the rest alone is supervised.

    None: the chat template refuses these turns, or they are too long.
    """
    try:
        example = loaded.encoder.encode(variant.row, prefill=variant.answer_prefix)
    except ValueError:
        return None
    return example if len(example.token_ids) <= max_tokens else None


def add_answer_prefix(variant: PromptVariant) -> Row:
    """Return the row with all that the model is shown among its messages: what is there is not counted as recalled."""
    if not variant.answer_prefix:
        return variant.row
    return replace(variant.row, messages=(*variant.row.messages, Message("assistant", variant.answer_prefix)))


_Values = Mapping[str, Sequence[float | None]]


def _by_template(value: MetricValue, askings: Sequence[_Asking], num_rows: int) -> _Values:
    """Return template -> one value a forget row; None: not asked so, or the metric is not defined there."""
    values: dict[str, list[float | None]] = {}
    for asking, each in zip(askings, value.per_example or (), strict=False):
        values.setdefault(asking.template, [None] * num_rows)[asking.place] = each
    return values


def _worst(joined: MetricValue, values: _Values, resampling: Resampling) -> MetricValue:
    if joined.value is None:
        return joined
    return compute_worst_case(values.values(), resampling)


def _of_template(joined: MetricValue, values: _Values, template: str, resampling: Resampling) -> MetricValue:
    if joined.value is None:
        return joined
    if template not in values:
        return MetricValue(value=None, absent_reason="no forget question could be asked in this way")
    return summarize(values[template], resampling)


def _notes(spec: Prompting, asked: Mapping[PromptTemplate, int], num_rows: int) -> Iterator[str]:
    yield (
        f"Of each row the largest value over {len(spec.templates)} ways of asking: a maximum of several tries is above "
        "a single try even by chance. The same maximum is taken of every model, so compare models and not with the "
        "values without the attack."
    )
    for template, number in asked.items():
        if number < num_rows:
            yield f"{template}: {number} of {num_rows} rows could be asked in this way."

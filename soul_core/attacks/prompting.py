"""Prompting: the forget questions asked in other ways; for each question the way that reveals most counts.

Source: the adversarial probes of RWKU (arXiv:2406.10890: prefix injection, affirmative suffix, role play, in-context
examples, reverse and cross-lingual questions). The wordings are this project's.
Differs from it: one worst case per row over all ways, where RWKU takes the mean over probes.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from soul_core.attacks.context import (
    ATTACK_METRICS,
    SAMPLED_METRICS,
    AttackContext,
    AttackNotPossible,
    compute_worst_case,
    get_row_numbers,
)
from soul_core.attacks.templates import TEMPLATES, PromptVariant, TemplateContext, get_question
from soul_core.data import Message, Row
from soul_core.data.encoding import Example
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.models.loading import LoadedModel
from soul_core.report import MetricValue
from soul_core.spec import FORGET, RETAIN, Evaluation, JobSpec
from soul_core.spec.attacks import Prompting, PromptTemplate

#: Rows that are searched for few-shot examples, at most.
_MAX_CANDIDATES = 200


@dataclass(frozen=True)
class _Question:
    """One forget row asked in one way: its index among the selected forget rows, and the model's input."""

    template: str
    index: int
    row: Row
    example: Example


def run_prompting(context: AttackContext, spec: Prompting) -> AttackOutcome:
    """Ask every forget question in every way, in one batch; report each way, and the worst of each row."""
    selection, resampling = context.forget_selection, context.resampling
    if not any(row.messages for row in selection.rows):
        raise AttackNotPossible("the forget set is plain text: there are no questions to ask in another way")
    questions = list(_make_questions(context, spec))
    if not questions:
        raise AttackNotPossible("no forget question can be asked in these ways within the model's context")
    joined = EvaluationSet(
        FORGET,
        tuple(replace(question.row, number=number) for number, question in enumerate(questions, start=1)),
        tuple(question.example for question in questions),
    )
    sampled = [name for name in SAMPLED_METRICS if name in context.spec.evaluation.metrics]
    asking = replace(context, spec=_spread_samples(context.spec, len(spec.templates), num_questions=len(questions)))
    measured = asking.measure(joined, metrics=(*ATTACK_METRICS, *sampled))[FORGET]
    by_template = {name: _group_by_template(value, questions, len(selection.rows)) for name, value in measured.items()}
    return AttackOutcome(
        attacked={
            FORGET: {
                name: measured[name]
                if measured[name].value is None
                else compute_worst_case(values.values(), resampling)
                for name, values in by_template.items()
            }
        },
        baseline={FORGET: context.baseline_metrics},
        rows={FORGET: get_row_numbers(selection)},
        variants={
            template: {
                name: _summarize_template(measured[name], values.get(template), resampling)
                for name, values in by_template.items()
            }
            for template in spec.templates
        },
        notes=(
            *_make_notes(spec, questions, len(selection.rows)),
            *([_format_sampling_note(asking.spec.evaluation, len(spec.templates))] if sampled else []),
        ),
    )


def _spread_samples(spec: JobSpec, num_templates: int, *, num_questions: int) -> JobSpec:
    """Return the spec with the samples of a row spread over the ways of asking, so that they cost as much as one way.

    The worst of all samples of each way, and then the worst way, is the worst of as many tries as without the attack.
    """
    evaluation = spec.evaluation
    num_samples = math.ceil(evaluation.leak_samples / num_templates)
    changes = {
        "leak_samples": num_samples,
        "leak_k": num_samples,
        "leak_temperatures": evaluation.leak_temperatures[:1],
        "leak_examples": num_questions,
    }
    return spec.model_copy(update={"evaluation": evaluation.model_copy(update=changes)})


def _format_sampling_note(evaluation: Evaluation, num_templates: int) -> str:
    return (
        f"Leaks: {evaluation.leak_samples} samples for each way of asking at temperature "
        f"{evaluation.leak_temperatures[0]:g}; the worst of all {num_templates * evaluation.leak_samples} tries counts."
    )


def _make_questions(context: AttackContext, spec: Prompting) -> Iterator[_Question]:
    loaded = context.loaded
    max_tokens = min(context.spec.training.max_tokens, loaded.facts.context_tokens)
    examples_by_row = _select_examples(context)
    for template in spec.templates:
        for index, row in enumerate(context.forget_selection.rows):
            if not any(message.role == "user" for message in row.messages):
                continue
            variant = TEMPLATES[template](row, TemplateContext(spec, examples_by_row.get(index, ())))
            example = variant and encode_variant(variant, loaded, max_tokens=max_tokens)
            if variant and example:
                yield _Question(template, index, add_answer_prefix(variant), example)


def _select_examples(context: AttackContext) -> dict[int, list[Row]]:
    """Return, for each forget row, candidates for few-shot examples: retain rows, else other forget rows."""
    retain_set = context.full_sets.get(RETAIN)
    source = retain_set if retain_set and retain_set.has_prompts else context.full_sets[FORGET]
    questions = [row for row in source.rows if len(row.messages) == 1 and row.messages[0].role == "user"]
    rng = random.Random(f"{context.spec.seed} few_shot")  # noqa: S311  not for secrets
    candidates = rng.sample(questions, min(len(questions), _MAX_CANDIDATES))
    return {
        index: [other for other in candidates if get_question(other) != get_question(row)]
        for index, row in enumerate(context.forget_selection.rows)
        if any(message.role == "user" for message in row.messages)
    }


def encode_variant(variant: PromptVariant, loaded: LoadedModel, *, max_tokens: int) -> Example | None:
    """Return prompt, answer prefix and the rest of the answer as tokens; only the rest is scored.

    None if the chat template refuses these turns, or they are too long.
    """
    try:
        example = loaded.encoder.encode(variant.row, prefill=variant.answer_prefix)
    except ValueError:
        return None
    return example if len(example.token_ids) <= max_tokens else None


def add_answer_prefix(variant: PromptVariant) -> Row:
    """Return the row with the answer prefix among its messages: what the model is shown does not count as recalled."""
    if not variant.answer_prefix:
        return variant.row
    return replace(variant.row, messages=(*variant.row.messages, Message("assistant", variant.answer_prefix)))


def _group_by_template(
    value: MetricValue, questions: Sequence[_Question], num_rows: int
) -> Mapping[str, Sequence[float | None]]:
    """Return template -> one value per forget row; None: not asked this way, or the metric is not defined there."""
    values: dict[str, list[float | None]] = {}
    for question, row_value in zip(questions, value.per_example or (), strict=False):
        values.setdefault(question.template, [None] * num_rows)[question.index] = row_value
    return values


def _summarize_template(
    joined: MetricValue, values: Sequence[float | None] | None, resampling: Resampling
) -> MetricValue:
    if joined.value is None:
        return joined
    if values is None:
        return make_absent_value("no forget question could be asked in this way")
    return summarize(values, resampling)


def _make_notes(spec: Prompting, questions: Sequence[_Question], num_rows: int) -> Iterator[str]:
    yield (
        f"For each row the largest value over {len(spec.templates)} ways of asking: the maximum of several tries is "
        "above a single try even by chance. Every model has the same maximum, so compare models and not with the "
        "values without the attack."
    )
    asked: dict[PromptTemplate, int] = {
        template: sum(question.template == template for question in questions) for template in spec.templates
    }
    for template, num_asked in asked.items():
        if num_asked < num_rows:
            yield f"{template}: {num_asked} of {num_rows} rows could be asked in this way."

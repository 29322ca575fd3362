"""Which rows are measured, and which questions the report shows side by side: chosen once, for all models."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.data import Row
from soul_core.data.encoding import Example
from soul_core.report import AnswerSample
from soul_core.spec import FORGET

#: Column of a row's wrong answers.
PERTURBED_COLUMN = "perturbed_answer"

Answers = Mapping[str, Mapping[int, str]]
"""Set -> row number -> one model's own answer."""


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of one data set that are measured, and as tokens."""

    name: str
    rows: tuple[Row, ...]
    examples: tuple[Example, ...]

    @property
    def has_prompts(self) -> bool:
        return any(row.messages for row in self.rows)


def choose_rows(
    name: str, rows: Sequence[Row], examples: Sequence[Example], *, max_rows: int, seed: int
) -> EvaluationSet:
    """Choose at most `most` rows by the seed, in the set's order: the same ones for every model.

    Rows with wrong answers come first: where only some have them (TOFU's retain set) they are what every metric can be
    taken on.
    """
    chosen = list(range(len(rows)))
    if len(rows) > max_rows:
        drawn = random.Random(f"{seed} {name}").sample(chosen, len(chosen))  # noqa: S311  not for secrets
        chosen = sorted(sorted(drawn, key=lambda i: not rows[i].extra.get(PERTURBED_COLUMN))[:max_rows])
    return EvaluationSet(name, tuple(rows[i] for i in chosen), tuple(examples[i] for i in chosen))


def make_answer_samples(
    sets: Sequence[EvaluationSet],
    answers: Mapping[str, Answers],
    preambles: Mapping[str, Answers] | None = None,
    *,
    max_samples: int,
) -> tuple[AnswerSample, ...]:
    """Put the same questions beside each other, one answer a model (`answers`: model -> its answers; `preambles`: what
    it wrote before them).
    """
    shown = choose_sample_rows(sets, max_samples)
    return tuple(
        AnswerSample(
            set=one.name,
            row=row.number,
            prompt=format_prompt(row),
            expected=row.completion,
            answers={  # a probe may have been too long for one of the models
                model: of_model[one.name][row.number]
                for model, of_model in answers.items()
                if row.number in of_model.get(one.name, {})
            },
            preambles={
                model: of_model[one.name][row.number]
                for model, of_model in (preambles or {}).items()
                if row.number in of_model.get(one.name, {})
            },
        )
        for one in sets
        for row in one.rows
        if row.number in shown[one.name]
    )


def choose_sample_rows(sets: Sequence[EvaluationSet], max_rows: int) -> dict[str, frozenset[int]]:
    """Share `most` questions out, one set after the other, the forget set twice as often: it is what people ask for."""
    waiting = {one.name: [row.number for row in one.rows if row.messages] for one in sets}
    shown: dict[str, set[int]] = {name: set() for name in waiting}
    turns = [name for name in waiting for _ in range(2 if name == FORGET else 1)]
    while any(waiting.values()):
        for name in turns:
            if sum(map(len, shown.values())) >= max_rows:
                return {name: frozenset(rows) for name, rows in shown.items()}
            if waiting[name]:
                shown[name].add(waiting[name].pop(0))
    return {name: frozenset(rows) for name, rows in shown.items()}


def format_prompt(row: Row) -> str:
    """Return what the model is asked, for people: the turns of a conversation by role, a single question alone."""
    if len(row.messages) == 1:
        return row.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in row.messages)

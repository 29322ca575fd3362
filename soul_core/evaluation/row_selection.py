"""Selects the rows that are measured, and the answer samples of the report: the same for all models."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.data import Row
from soul_core.data.encoding import Example
from soul_core.evaluation.model_evaluation import Answers
from soul_core.report import AnswerSample
from soul_core.spec import FORGET

#: Column of a row's wrong answers.
PERTURBED_COLUMN = "perturbed_answer"


@dataclass(frozen=True)
class EvaluationSet:
    """Rows of one data set that are measured, with their tokens."""

    name: str
    rows: tuple[Row, ...]
    examples: tuple[Example, ...]

    @property
    def has_prompts(self) -> bool:
        return any(row.messages for row in self.rows)


def choose_rows(
    name: str,
    rows: Sequence[Row],
    examples: Sequence[Example],
    *,
    max_rows: int,
    seed: int,
    given_numbers: Sequence[int] | None = None,
) -> EvaluationSet:
    """Select rows by the seed, in the set's order: the same ones for every model.

    Rows with wrong answers are preferred: where only some have them (TOFU's retain set), every metric can be computed
    on them.

    Args:
        given_numbers: Numbers of all rows of the set as it was given, if the run uses a part of it: those rows of the
            part come first that a run on the complete set selects, so that logs of both can be compared.
    """
    indices = list(range(len(rows)))
    if len(rows) > max_rows:
        index_of = {row.number: i for i, row in enumerate(rows)}
        population = indices if given_numbers is None else [index_of.get(number) for number in given_numbers]
        shuffled = random.Random(f"{seed} {name}").sample(population, len(population))  # noqa: S311  not for secrets
        present = [i for i in shuffled if i is not None]
        indices = sorted(sorted(present, key=lambda i: not rows[i].extra.get(PERTURBED_COLUMN))[:max_rows])
    return EvaluationSet(name, tuple(rows[i] for i in indices), tuple(examples[i] for i in indices))


def make_answer_samples(
    sets: Sequence[EvaluationSet],
    answers: Mapping[str, Answers],
    preambles: Mapping[str, Answers] | None = None,
    leaking_samples: Mapping[str, Answers] | None = None,
    *,
    max_samples: int,
) -> tuple[AnswerSample, ...]:
    """Return the same questions with the answer of each model.

    Args:
        answers: Model -> its answers.
        preambles: Model -> what it generated before its answers.
        leaking_samples: Model -> sampled answers that state the fact.
    """
    sample_rows = choose_sample_rows(sets, max_samples)
    return tuple(
        AnswerSample(
            set=evaluation_set.name,
            row=row.number,
            prompt=format_prompt(row),
            expected=row.completion,
            # a probe may have been too long for one of the models
            answers=_get_texts(answers, evaluation_set.name, row.number),
            leaks=_get_texts(leaking_samples or {}, evaluation_set.name, row.number),
            preambles=_get_texts(preambles or {}, evaluation_set.name, row.number),
        )
        for evaluation_set in sets
        for row in evaluation_set.rows
        if row.number in sample_rows[evaluation_set.name]
    )


def _get_texts(texts_by_model: Mapping[str, Answers], set_name: str, row: int) -> dict[str, str]:
    return {model: texts[set_name][row] for model, texts in texts_by_model.items() if row in texts.get(set_name, {})}


def choose_sample_rows(sets: Sequence[EvaluationSet], max_rows: int) -> dict[str, frozenset[int]]:
    """Select questions from the sets in turn, from the forget set twice as many, since it matters most to readers."""
    waiting = {
        evaluation_set.name: [row.number for row in evaluation_set.rows if row.messages] for evaluation_set in sets
    }
    selected: dict[str, set[int]] = {name: set() for name in waiting}
    turns = [name for name in waiting for _ in range(2 if name == FORGET else 1)]
    while any(waiting.values()) and sum(map(len, selected.values())) < max_rows:
        for name in turns:
            if waiting[name] and sum(map(len, selected.values())) < max_rows:
                selected[name].add(waiting[name].pop(0))
    return {name: frozenset(rows) for name, rows in selected.items()}


def format_prompt(row: Row) -> str:
    """Return the prompt as readable text: the turns of a conversation by role, a single question alone."""
    if len(row.messages) == 1:
        return row.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in row.messages)

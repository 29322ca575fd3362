"""The models' answers to the same questions, with the words marked in which they differ. Torch-free."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soul_core.report import AnswerSample, Report
from soul_core.spec import JUDGED_MODEL

DiffMark = Literal["same", "lost", "new"]
DiffRuns = list[tuple[DiffMark, str]]


@dataclass(frozen=True)
class ComparedAnswer:
    """One model's answer in marked runs of words; no runs if the model was not asked.

    Attributes:
        is_same: The answer equals the first model's word for word.
    """

    model: str
    runs: DiffRuns | None
    is_same: bool


@dataclass(frozen=True)
class AnswerComparison:
    """One question with the answer of each model."""

    example: AnswerSample
    answers: tuple[ComparedAnswer, ...]


def choose_compared_model(models: Sequence[str], judged: str) -> str | None:
    """Return the model with which the first model's answers are compared; None if several qualify."""
    others = list(models)[1:]
    return judged if judged in others else others[0] if len(others) == 1 else None


def compare_answers(report: Report) -> dict[str, list[AnswerComparison]]:
    """Return the questions of each data set. The answers of all models are compared with the first model's."""
    first, *others = report.models
    compared = choose_compared_model(list(report.models), JUDGED_MODEL[report.spec.kind])
    by_set: dict[str, list[AnswerComparison]] = {}
    for example in report.examples:
        own = example.answers.get(first)
        compared_answer = example.answers.get(compared) if compared else None
        answers = [ComparedAnswer(first, _mark(own, compared_answer, side=0), is_same=False)]
        for model in others:
            answer = example.answers.get(model)
            is_same = answer is not None and answer == own
            answers.append(ComparedAnswer(model, _mark(answer, own, side=1), is_same))
        by_set.setdefault(example.set, []).append(AnswerComparison(example, tuple(answers)))
    return by_set


def _mark(answer: str | None, other: str | None, *, side: Literal[0, 1]) -> DiffRuns | None:
    """Return an answer in runs, as the side before (0) or after (1) of a comparison, unmarked without an `other`."""
    if answer is None:
        return None
    if other is None:
        return [("same", answer)]
    return diff_answers(answer, other)[0] if side == 0 else diff_answers(other, answer)[1]


def diff_answers(before: str, after: str) -> tuple[DiffRuns, DiffRuns]:
    """Split two answers into runs of words: in both ("same"), only before ("lost"), only after ("new").

    Words are compared without the space after them, so that a difference in spaces alone marks nothing.
    """
    words_before, words_after = _split_words(before), _split_words(after)
    matcher = difflib.SequenceMatcher(
        None, [word.strip() for word in words_before], [word.strip() for word in words_after], autojunk=False
    )
    runs_before: DiffRuns = []
    runs_after: DiffRuns = []
    for operation, start, end, start_after, end_after in matcher.get_opcodes():
        is_same = operation == "equal"
        _append_run(runs_before, "same" if is_same else "lost", "".join(words_before[start:end]))
        _append_run(runs_after, "same" if is_same else "new", "".join(words_after[start_after:end_after]))
    return runs_before, runs_after


def _append_run(runs: DiffRuns, mark: DiffMark, text: str) -> None:
    """Append a run. The space after it is not marked."""
    words = text.rstrip() if mark != "same" else text
    parts: DiffRuns = [(mark, words), ("same", text[len(words) :])]
    for part_mark, part in parts:
        if part and runs and runs[-1][0] == part_mark:
            runs[-1] = (part_mark, runs[-1][1] + part)
        elif part:
            runs.append((part_mark, part))


def _split_words(text: str) -> list[str]:
    return re.findall(r"^\s+|\w+\s*|[^\w\s]\s*", text)

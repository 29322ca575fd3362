"""Answers side by side: each cut into runs of words that it shares, or not, with the first model's. Torch-free."""

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
class AnswerComparison:
    """One question with each model's answer, cut where it differs."""

    example: AnswerSample
    answers: tuple[tuple[str, DiffRuns | None, bool], ...]
    """Model, its answer in runs (None: not asked), whether it is word for word the first model's."""


def choose_compared_model(models: Sequence[str], judged: str) -> str | None:
    """Return whose answers the first model's are compared with. None: there are several, none of them judged."""
    others = list(models)[1:]
    return judged if judged in others else others[0] if len(others) == 1 else None


def compare_answers(report: Report) -> dict[str, list[AnswerComparison]]:
    """Return the questions by set. Each model's answers are compared with the first one's."""
    first, *others = report.models
    compared = choose_compared_model(list(report.models), JUDGED_MODEL[report.spec.kind])
    by_set: dict[str, list[AnswerComparison]] = {}
    for example in report.examples:
        own = example.answers.get(first)
        against = example.answers.get(compared) if compared else None
        cut = diff_answers(own, against)[0] if own is not None and against is not None else _whole(own)
        answers: list[tuple[str, DiffRuns | None, bool]] = [(first, cut, False)]
        for model in others:
            answer = example.answers.get(model)
            cut = diff_answers(own, answer)[1] if own is not None and answer is not None else _whole(answer)
            answers.append((model, cut, answer is not None and answer == own))
        by_set.setdefault(example.set, []).append(AnswerComparison(example, tuple(answers)))
    return by_set


def _whole(answer: str | None) -> DiffRuns | None:
    return None if answer is None else [("same", answer)]


def diff_answers(before: str, after: str) -> tuple[DiffRuns, DiffRuns]:
    """Split two answers into runs of words: in both ("same"), only before ("lost"), only after ("new").

    Words are compared without the space behind them, so that spaces alone never break a run.
    """
    a, b = _words(before), _words(after)
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False)
    left: DiffRuns = []
    right: DiffRuns = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        _add(left, "same" if kind == "equal" else "lost", "".join(a[a0:a1]))
        _add(right, "same" if kind == "equal" else "new", "".join(b[b0:b1]))
    return left, right


def _add(runs: DiffRuns, mark: DiffMark, text: str) -> None:
    """Add a run; the space behind it belongs to what comes next, where nothing is marked."""
    words = text.rstrip() if mark != "same" else text
    for kind, part in ((mark, words), ("same", text[len(words) :])):
        if part and runs and runs[-1][0] == kind:
            runs[-1] = (runs[-1][0], runs[-1][1] + part)
        elif part:
            runs.append((mark if kind == mark else "same", part))


def _words(text: str) -> list[str]:
    return re.findall(r"^\s+|\w+\s*|[^\w\s]\s*", text)

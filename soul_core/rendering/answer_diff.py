"""Answers side by side: each cut into runs of words that it shares, or not, with the first model's. Torch-free."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soul_core.report import Report, SideBySide
from soul_core.spec import JUDGED

Mark = Literal["same", "lost", "new"]
Runs = list[tuple[Mark, str]]


@dataclass(frozen=True)
class Answered:
    """One question with each model's answer, cut where it differs."""

    example: SideBySide
    answers: tuple[tuple[str, Runs | None, bool], ...]
    """Model, its answer in runs (None: not asked), whether it is word for word the first model's."""


def compared_with(models: Sequence[str], judged: str) -> str | None:
    """Return whose answers the first model's are compared with. None: there are several, none of them judged."""
    others = list(models)[1:]
    return judged if judged in others else others[0] if len(others) == 1 else None


def answers_of(report: Report) -> dict[str, list[Answered]]:
    """Return the questions by set. Each model's answers are compared with the first one's."""
    first, *others = report.models
    compared = compared_with(list(report.models), JUDGED[report.spec.kind])
    by_set: dict[str, list[Answered]] = {}
    for example in report.examples:
        own = example.answers.get(first)
        against = example.answers.get(compared) if compared else None
        cut = marked(own, against)[0] if own is not None and against is not None else _whole(own)
        answers: list[tuple[str, Runs | None, bool]] = [(first, cut, False)]
        for model in others:
            answer = example.answers.get(model)
            cut = marked(own, answer)[1] if own is not None and answer is not None else _whole(answer)
            answers.append((model, cut, answer is not None and answer == own))
        by_set.setdefault(example.set, []).append(Answered(example, tuple(answers)))
    return by_set


def _whole(answer: str | None) -> Runs | None:
    return None if answer is None else [("same", answer)]


def marked(before: str, after: str) -> tuple[Runs, Runs]:
    """Split two answers into runs of words: in both ("same"), only before ("lost"), only after ("new").

    Words are compared without the space behind them, so that spaces alone never break a run.
    """
    a, b = _words(before), _words(after)
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False)
    left: Runs = []
    right: Runs = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        _add(left, "same" if kind == "equal" else "lost", "".join(a[a0:a1]))
        _add(right, "same" if kind == "equal" else "new", "".join(b[b0:b1]))
    return left, right


def _add(runs: Runs, mark: Mark, text: str) -> None:
    """Add a run; the space behind it belongs to what comes next, where nothing is marked."""
    words = text.rstrip() if mark != "same" else text
    for kind, part in ((mark, words), ("same", text[len(words) :])):
        if part and runs and runs[-1][0] == kind:
            runs[-1] = (runs[-1][0], runs[-1][1] + part)
        elif part:
            runs.append((mark if kind == mark else "same", part))


def _words(text: str) -> list[str]:
    return re.findall(r"^\s+|\w+\s*|[^\w\s]\s*", text)

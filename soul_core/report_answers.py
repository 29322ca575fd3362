"""Answers side by side: each cut into runs of words that it shares, or not, with the first model's. Torch-free."""

import difflib
import re
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


def answers_of(report: Report) -> dict[str, list[Answered]]:
    """Return the questions by set. Answers are compared with the first model's; its own with the judged one's."""
    models = list(report.models)
    judged = JUDGED[report.spec.kind]
    by_set: dict[str, list[Answered]] = {}
    for example in report.examples:
        first = example.answers.get(models[0]) if models else None
        against = example.answers.get(judged if judged != models[0] else models[-1]) if models else None
        answers = []
        for model in models:
            answer = example.answers.get(model)
            runs: Runs | None = None if answer is None else [("same", answer)]
            if answer is not None and model == models[0] and against is not None:
                runs = marked(answer, against)[0]
            elif answer is not None and model != models[0] and first is not None:
                runs = marked(first, answer)[1]
            answers.append((model, runs, answer is not None and model != models[0] and answer == first))
        by_set.setdefault(example.set, []).append(Answered(example, tuple(answers)))
    return by_set


def marked(before: str, after: str) -> tuple[Runs, Runs]:
    """Split two answers into runs of words: in both ("same"), only before ("lost"), only after ("new").

    Words are compared without the space behind them, so that spaces alone never break a run.
    """
    a, b = _words(before), _words(after)
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False)
    left: Runs = []
    right: Runs = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        same = kind == "equal"
        if a1 > a0:
            left.append(("same" if same else "lost", "".join(a[a0:a1])))
        if b1 > b0:
            right.append(("same" if same else "new", "".join(b[b0:b1])))
    return left, right


def _words(text: str) -> list[str]:
    return re.findall(r"^\s+|\w+\s*|[^\w\s]\s*", text)

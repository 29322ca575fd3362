"""The words of a report: verdicts, models, sets, attacks, numbers as people read them. Torch-free.

One place, so that page, card and terminal say the same, and none of them more than was measured.
"""

import re

from soul_core.catalogue import CATALOGUE, number
from soul_core.report import AttackResult, MetricValue, Report, SetConflicts, Verdict
from soul_core.spec import ALL, AUDITED, BASE, FINETUNED, REFERENCE, UNLEARNED, Criterion

HEADLINES: dict[Verdict, str] = {
    "passed": "Passed: every criterion of this job holds",
    "failed": "Failed: at least one criterion of this job is broken",
    "inconclusive": "Inconclusive: the measurements do not decide every criterion",
}
#: The headline where no criterion is broken, and the verdict is failed all the same.
RECITED = "Failed: the model still gives away what was to be forgotten"
SYMBOLS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
KINDS = {"unlearn": "unlearning", "finetune": "fine-tuning", "evaluate": "evaluation"}
ROLES = {
    BASE: "the model as it was given",
    UNLEARNED: "the same model after this job",
    FINETUNED: "the same model after this job",
    AUDITED: "the model that this evaluation is about",
    REFERENCE: "retrained without the forget set: how a model answers that never saw it",
}
_ATTACKS = {
    "relearn": "Relearning",
    "quantise": "Quantisation",
    "prompting": "Other ways of asking",
    "downstream": "Fine-tuning on unrelated text",
    "probing": "Reading hidden states",
    "poison": "Audit for poisoned rows",
}
#: Control characters and those that turn the direction of text around: shown, never obeyed.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def headline(report: Report) -> str:
    """Return the verdict in one line."""
    if not report.criteria:
        return f"No verdict: this {KINDS[report.spec.kind]} names no criteria"
    if report.recitals and not any(result.outcome == "failed" for result in report.criteria):
        return RECITED
    return HEADLINES[report.verdict]


def visible(text: str) -> str:
    """Replace characters that would act on the page instead of showing."""
    return _UNPRINTABLE.sub("\ufffd", text)


def title_of(metric: str) -> str:
    """Return a metric's title."""
    return CATALOGUE[metric].title if metric in CATALOGUE else metric


def title_of_set(name: str) -> str:
    """Return a data set's title."""
    return "The model as a whole" if name == ALL else f"{name.replace('_', ' ').capitalize()} set"


def title_of_attack(attack: AttackResult) -> str:
    """Return an attack's title, with what tells it from others of its kind."""
    kind = str(attack.settings.get("kind", attack.label))
    title = _ATTACKS.get(kind, attack.label.replace("_", " ").capitalize())
    if "bits" in attack.settings:
        return f"{title} to {attack.settings['bits']} bits"
    if kind in {"relearn", "downstream"} and "set" in attack.settings:
        return f"{title} ({attack.settings['set']} set)"
    return title


def criterion_subject(criterion: Criterion) -> str:
    """Say what a criterion is taken on."""
    where = "of the model as a whole" if criterion.set == ALL else f"on the {criterion.set} set"
    under = f", under attack {criterion.attack}" if criterion.attack else ""
    return f"{title_of(criterion.metric)} {where}{under}"


def bound(criterion: Criterion) -> str:
    """Write what a criterion asks, for people."""
    word, value = ("at most", criterion.at_most) if criterion.at_most is not None else ("at least", criterion.at_least)
    assert value is not None
    return f"{word} {number(value)}" + (" times the base model's" if criterion.relative_to_base else "")


def interval_text(interval: tuple[float, float] | None) -> str:
    """Write an interval: 0.1 to 0.2."""
    return f"{number(interval[0])} to {number(interval[1])}" if interval else ""


def cell_text(value: MetricValue | None) -> str:
    """Write a value with its interval: 0.15 [0.1, 0.2]."""
    if value is None or value.value is None:
        return "not measured"
    interval = f" [{number(value.interval[0])}, {number(value.interval[1])}]" if value.interval else ""
    return number(value.value) + interval


def percent(share: float) -> str:
    """Write a share for people, without digits that mean nothing."""
    value = 100 * share
    return f"{value:.0f}%" if abs(value) >= 10 or value == 0 else f"{value:.2g}%"


def back(share: float) -> str:
    """Say how much came back."""
    if share <= 0:
        return "nothing back"
    return f"{percent(share)} back" if share >= 0.01 else "less than 1% back"


def conflicting_rows(found: SetConflicts) -> str:
    """Write the row numbers of conflicts, the first forty."""
    rows = list(dict.fromkeys(one.row for one in found.rows))
    return ", ".join(map(str, rows[:40])) + (", ..." if len(rows) > 40 else "")


def duration(seconds: float) -> str:
    """Write seconds for people: 8.2 s, 4 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: float) -> str:
    """Write bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"

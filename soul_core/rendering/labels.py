"""The words of a report: verdicts, models, sets, attacks, numbers as people read them. Torch-free.

One place, so that page, card and terminal say the same, and none of them more than was measured.
"""

import re

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number, format_percent
from soul_core.report import AttackResult, Report, Verdict
from soul_core.spec import ALL, BASE, EVALUATED, FINETUNED, RETRAINED, UNLEARNED, Criterion

HEADLINES = {
    Verdict.PASSED: "Passed: every criterion of this job holds",
    Verdict.FAILED: "Failed: at least one criterion of this job is broken",
    Verdict.INCONCLUSIVE: "Inconclusive: the measurements do not decide every criterion",
}
#: The headline where no criterion is broken, and the verdict is failed all the same.
RECITED_HEADLINE = "Failed: the model still gives away what was to be forgotten"
VERDICT_SYMBOLS = {Verdict.PASSED: "✓", Verdict.FAILED: "✗", Verdict.INCONCLUSIVE: "?"}
JOB_KIND_TITLES = {"unlearn": "unlearning", "finetune": "fine-tuning", "evaluate": "evaluation"}
MODEL_ROLES = {
    BASE: "the model as it was given",
    UNLEARNED: "the same model after this job",
    FINETUNED: "the same model after this job",
    EVALUATED: "the model that this evaluation is about",
    RETRAINED: "retrained without the forget set: how a model answers that never saw it",
}
_ATTACKS = {
    "relearn": "Relearning",
    "quantize": "Quantization",
    "prompting": "Other ways of asking",
    "downstream": "Fine-tuning on unrelated text",
    "probing": "Reading hidden states",
    "poison": "Audit for poisoned rows",
}
#: Control characters and those that turn the direction of text around: shown, never obeyed.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def format_headline(report: Report) -> str:
    """Return the verdict in one line."""
    if not report.criteria:
        return f"No verdict: this {JOB_KIND_TITLES[report.spec.kind]} names no criteria"
    if report.recitals and not any(result.outcome == Verdict.FAILED for result in report.criteria):
        return RECITED_HEADLINE
    return HEADLINES[report.verdict]


def replace_control_characters(text: str) -> str:
    """Replace characters that would act on the page instead of showing."""
    return _UNPRINTABLE.sub("\ufffd", text)


def get_metric_title(metric: str) -> str:
    """Return a metric's title."""
    return METRIC_CATALOG[metric].title if metric in METRIC_CATALOG else metric


def get_set_title(name: str) -> str:
    """Return a data set's title."""
    return "The model as a whole" if name == ALL else f"{name.replace('_', ' ').capitalize()} set"


def get_attack_title(attack: AttackResult) -> str:
    """Return an attack's title, with what tells it from others of its kind."""
    kind = str(attack.settings.get("kind", attack.label))
    title = _ATTACKS.get(kind, attack.label.replace("_", " ").capitalize())
    if "bits" in attack.settings:
        return f"{title} to {attack.settings['bits']} bits"
    if kind in {"relearn", "downstream"} and "set" in attack.settings:
        return f"{title} ({attack.settings['set']} set)"
    return title


def format_criterion_metric(criterion: Criterion) -> str:
    """Say what a criterion is taken on."""
    where = "of the model as a whole" if criterion.set == ALL else f"on the {criterion.set} set"
    under = f", under attack {criterion.attack}" if criterion.attack else ""
    return f"{get_metric_title(criterion.metric)} {where}{under}"


def format_bound(criterion: Criterion) -> str:
    """Write what a criterion asks, for people."""
    word, value = ("at most", criterion.at_most) if criterion.at_most is not None else ("at least", criterion.at_least)
    assert value is not None
    return f"{word} {format_number(value)}" + (" times the base model's" if criterion.relative_to_base else "")


def format_recovery(share: float) -> str:
    """Say how much came back."""
    if share <= 0:
        return "nothing back"
    return f"{format_percent(share)} back" if share >= 0.01 else "less than 1% back"

"""Titles of a report: verdicts, models, data sets, metrics, attacks, criteria. Torch-free.

Page, model card and terminal use the same titles, and none of them claims more than was measured.
"""

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number
from soul_core.report import AttackResult, Report, Verdict
from soul_core.spec import ALL, BASE, EVALUATED, FINETUNED, RETRAINED, UNLEARNED, Criterion, JobKind

HEADLINES = {
    Verdict.PASSED: "Passed: every criterion of this job is met",
    Verdict.FAILED: "Failed: at least one criterion of this job is not met",
    Verdict.INCONCLUSIVE: "Inconclusive: the measurements do not decide every criterion",
}
#: The headline of a failed verdict without a failed criterion.
RECITAL_HEADLINE = "Failed: the model still states facts of the forget set"
VERDICT_SYMBOLS = {Verdict.PASSED: "✓", Verdict.FAILED: "✗", Verdict.INCONCLUSIVE: "?"}
JOB_KIND_TITLES = {
    JobKind.UNLEARN: "unlearning",
    JobKind.FINETUNE: "fine-tuning",
    JobKind.EVALUATE: "evaluation",
}
MODEL_ROLES = {
    BASE: "the model before this job",
    UNLEARNED: "the model after this job",
    FINETUNED: "the model after this job",
    EVALUATED: "the model that this job evaluates",
    RETRAINED: "trained without the forget set: shows how a model answers that never saw it",
}
_ATTACK_TITLES = {
    "relearn": "Relearning",
    "quantize": "Quantization",
    "prompting": "Prompting",
    "downstream": "Fine-tuning on unrelated text",
    "probing": "Probing of hidden states",
    "poison": "Audit for poisoned rows",
}


def get_headline(report: Report) -> str:
    """Return the verdict in one line."""
    if not report.criteria:
        return f"No verdict: this {JOB_KIND_TITLES[report.spec.kind]} has no criteria"
    if report.recitals and not any(result.outcome == Verdict.FAILED for result in report.criteria):
        return RECITAL_HEADLINE
    return HEADLINES[report.verdict]


def get_metric_title(metric: str) -> str:
    """Return a metric's title."""
    return METRIC_CATALOG[metric].title if metric in METRIC_CATALOG else metric


def get_set_title(name: str) -> str:
    """Return a data set's title."""
    return "The model as a whole" if name == ALL else f"{name.replace('_', ' ').capitalize()} set"


def get_attack_title(attack: AttackResult) -> str:
    """Return an attack's title, with the setting that distinguishes it from others of its kind."""
    kind = str(attack.settings.get("kind", attack.label))
    title = _ATTACK_TITLES.get(kind, attack.label.replace("_", " ").capitalize())
    if "bits" in attack.settings:
        return f"{title} to {attack.settings['bits']} bits"
    if kind in {"relearn", "downstream"} and "set" in attack.settings:
        return f"{title} ({attack.settings['set']} set)"
    return title


def get_criterion_title(criterion: Criterion) -> str:
    """Return the metric of a criterion, where it is measured, and under which attack."""
    where = "of the model as a whole" if criterion.set == ALL else f"on the {criterion.set} set"
    attack = f", under attack {criterion.attack}" if criterion.attack else ""
    gain = ", gain" if criterion.gain else ""
    return f"{get_metric_title(criterion.metric)} {where}{gain}{attack}"


def get_bound_title(criterion: Criterion) -> str:
    """Return the bound of a criterion: at most 0.25 times the base model's."""
    word, bound = ("at most", criterion.at_most) if criterion.at_most is not None else ("at least", criterion.at_least)
    assert bound is not None
    if not (criterion.relative_to_base or criterion.relative_to_retrained):
        return f"{word} {format_number(bound)}"
    return f"{word} {format_number(bound)} times the {'base' if criterion.relative_to_base else 'retrained'} model's"

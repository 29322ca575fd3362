"""Attacks on a retrained model that were read from a log, aligned with the attacks of this run. Torch-free.

An attack of a log is used only if it is the same attack: the same settings, the same rows measured, the same set
trained on. Otherwise it is absent with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.report import MetricValue, Report, SetMetrics
from soul_core.spec import FORGET
from soul_core.spec.attacks import Attack

_REMEDY = "compare with the retrained model itself"


@dataclass(frozen=True)
class LoggedAttack:
    """One attack on the retrained model, read from its log."""

    settings: Mapping[str, Any]
    outcome: AttackOutcome
    trained_set_sha256: str | None
    """Digest of the data set that the attack trained on, if that is not the forget set."""


def collect_logged_attacks(report: Report, model: str) -> dict[str, LoggedAttack]:
    """Return the attacks of a report on one of its models, by label."""
    sha256s = {facts.name: facts.sha256 for facts in report.data}
    return {
        attack.label: LoggedAttack(
            settings=attack.settings,
            outcome=AttackOutcome(
                attacked=attack.attacked[model], baseline=attack.baseline.get(model, {}), rows=attack.rows
            ),
            trained_set_sha256=sha256s.get(_get_trained_set(attack.settings)),
        )
        for attack in report.attacks
        if attack.attacked.get(model)
    }


def renumber_attacks(attacks: Mapping[str, LoggedAttack], row_numbers: Mapping[int, int]) -> dict[str, LoggedAttack]:
    """Return the attacks with the row numbers of this run; rows that it lacks have number 0.

    Args:
        row_numbers: Row number of the forget set in the log -> row number here.
    """
    return {
        label: replace(
            attack,
            outcome=attack.outcome.model_copy(
                update={
                    "rows": {
                        name: tuple(row_numbers.get(row, 0) for row in rows)
                        for name, rows in attack.outcome.rows.items()
                    }
                }
            ),
        )
        for label, attack in attacks.items()
    }


def align_logged_attacks(
    logged: Mapping[str, LoggedAttack],
    attacks: Mapping[str, Attack],
    judged_outcomes: Mapping[str, AttackOutcome],
    sha256s: Mapping[str, str],
) -> dict[str, AttackOutcome]:
    """Return the logged attacks, with their values in the order of the judged model's rows; absent with the reason.

    Args:
        logged: After `renumber_attacks`. Empty: the log has no attacks, and nothing is returned.
        attacks: The attacks of this run, by label.
        judged_outcomes: Their outcomes on the judged model.
        sha256s: Digests of the data sets of this run.
    """
    outcomes = {}
    for label, attack in attacks.items() if logged else ():
        judged = judged_outcomes.get(label)
        if judged is None or not judged.attacked:
            continue
        problem = _find_difference(logged.get(label), attack, judged, sha256s)
        if problem or label not in logged:
            outcomes[label] = AttackOutcome(absent_reason=f"{problem}; {_REMEDY}")
        else:
            outcomes[label] = _reorder_rows(logged[label].outcome, judged.rows)
    return outcomes


def _find_difference(
    logged: LoggedAttack | None, attack: Attack, judged: AttackOutcome, sha256s: Mapping[str, str]
) -> str | None:
    """Return why a logged attack is not the attack of this run; None if it is."""
    if logged is None:
        return "the retrained model's log has no such attack"
    settings = attack.model_dump(mode="json")
    if dict(logged.settings) != settings:
        return "the retrained model's log has this attack with other settings"
    name = _get_trained_set(settings)
    if name != FORGET and logged.trained_set_sha256 != sha256s.get(name):
        return f"the retrained model's log has this attack with other rows of the {name} set"
    if {key: sorted(rows) for key, rows in logged.outcome.rows.items()} != {
        key: sorted(rows) for key, rows in judged.rows.items()
    }:
        return "the retrained model's log has this attack on other rows of the forget set"
    return None


def _get_trained_set(settings: Mapping[str, Any]) -> str:
    return str(settings.get("set", FORGET))


def _reorder_rows(outcome: AttackOutcome, rows: Mapping[str, Sequence[int]]) -> AttackOutcome:
    """Return an outcome with the values of its rows in another order."""

    def reorder(sets: Mapping[str, SetMetrics]) -> dict[str, SetMetrics]:
        return {
            name: {metric: _reorder_value(value, orders.get(name, ())) for metric, value in metrics.items()}
            for name, metrics in sets.items()
        }

    orders = {name: [list(outcome.rows[name]).index(row) for row in numbers] for name, numbers in rows.items()}
    return AttackOutcome(
        attacked=reorder(outcome.attacked),
        baseline=reorder(outcome.baseline),
        rows={name: tuple(numbers) for name, numbers in rows.items()},
        notes=("The retrained model's numbers under this attack are read from its log.",),
    )


def _reorder_value(value: MetricValue, order: Sequence[int]) -> MetricValue:
    def select(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return values and tuple(values[i] for i in order)

    return value.model_copy(update={"per_example": select(value.per_example), "weights": select(value.weights)})

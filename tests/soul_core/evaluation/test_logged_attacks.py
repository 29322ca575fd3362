"""Attacks that are read from a retrained model's log: used only if they are the attacks of this run."""

from dataclasses import replace

import pytest

from soul_core.evaluation.logged_attacks import LoggedAttack, align_logged_attacks, renumber_attacks
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.spec.attacks import Attack, Downstream, Relearn

RESAMPLING = Resampling(num_resamples=50, confidence=0.95, seed=0)
RELEARN = Relearn()
SHA256S = {"forget": "f", "general": "g"}


def make_outcome(values: dict[int, float]) -> AttackOutcome:
    sets = {"forget": {"probability": summarize(list(values.values()), RESAMPLING)}}
    return AttackOutcome(attacked=sets, baseline=sets, rows={"forget": tuple(values)})


JUDGED = make_outcome({1: 0.1, 2: 0.2, 3: 0.3})
#: Rows 11, 12 and 13 of the log are rows 1, 2 and 3 here.
LOGGED = renumber_attacks(
    {"relearn": LoggedAttack(RELEARN.model_dump(mode="json"), make_outcome({13: 0.6, 11: 0.4, 12: 0.5}), None)},
    {11: 1, 12: 2, 13: 3},
)["relearn"]


def align(logged: LoggedAttack, attack: Attack = RELEARN) -> AttackOutcome:
    return align_logged_attacks({attack.label: logged}, {attack.label: attack}, {attack.label: JUDGED}, SHA256S)[
        attack.label
    ]


def test_values_of_a_log_follow_the_order_of_the_judged_models_rows() -> None:
    outcome = align(LOGGED)

    assert outcome.rows == {"forget": (1, 2, 3)}
    assert outcome.attacked["forget"]["probability"].per_example == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("logged", "attack", "words"),
    [
        (LOGGED, Relearn(steps=9), "with other settings"),
        (replace(LOGGED, outcome=make_outcome({1: 0.4, 2: 0.5})), RELEARN, "on other rows of the forget set"),
        (
            LoggedAttack(Downstream().model_dump(mode="json"), LOGGED.outcome, trained_set_sha256="other"),
            Downstream(),
            "with other rows of the general set",
        ),
    ],
)
def test_another_attack_is_absent_with_the_reason(logged: LoggedAttack, attack: Attack, words: str) -> None:
    assert words in str(align(logged, attack).absent_reason)


def test_a_log_without_attacks_adds_nothing() -> None:
    assert align_logged_attacks({}, {"relearn": RELEARN}, {"relearn": JUDGED}, SHA256S) == {}

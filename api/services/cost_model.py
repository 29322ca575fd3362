"""How many operations a job takes: a rough sum over training, measuring, generating and attacks, model by model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG
from soul_core.spec import FORGET, JobSpec
from soul_core.spec.attacks import Attack
from soul_core.spec.strategy import Ensemble, Search, get_metric_inputs, select_search_criteria
from soul_core.training.schedule import compute_num_steps

#: Answers end before their longest length, on average.
_USUAL_ANSWER_SHARE = 0.4
#: Generating reads all weights for each token: that many times slower than their arithmetic on a CPU.
_GENERATION_PENALTY = 8
#: A second-order step with its share of the curvature, against a first-order one.
_CURVATURE = 1.5


@dataclass(frozen=True)
class SetSize:
    """How large a data set is, in rows and in tokens a row."""

    num_rows: int
    tokens_per_row: float


@dataclass(frozen=True)
class Operations:
    """Floating point operations: those of plain passes, and those of generating, which go slower."""

    passes: float = 0.0
    generation: float = 0.0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.passes + other.passes, self.generation + other.generation)

    def scale(self, factor: float) -> "Operations":
        return Operations(self.passes * factor, self.generation * factor)

    @property
    def total(self) -> float:
        return self.passes + self.generation

    @property
    def weighted_total(self) -> float:
        """The same, by how slowly they go."""
        return self.passes + self.generation * _GENERATION_PENALTY


def count_operations(
    spec: JobSpec, sets: Mapping[str, SetSize], num_parameters: int, *, num_compared_models: int
) -> Operations:
    """Return what a job of any kind takes; `num_beside` models are measured beside its own."""
    num_own = 1 if spec.kind == "evaluate" else 2  # before and after
    measured = _measuring(spec, sets) + _attacks(spec, sets)
    return (_training(spec, sets) + measured.scale(num_own + num_compared_models)).scale(num_parameters)


# --- below: operations a parameter ---


def _training(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    """Return what training takes: of a search the most it may, of an ensemble that of all recipes; with the looks at
    the criteria, of which the base has one too.
    """
    if spec.kind == "evaluate":
        return Operations()
    strategy = spec.strategy
    if isinstance(strategy, Search):
        looks = strategy.trials * math.ceil(_steps(spec, sets) / strategy.eval_every)
        return _one_training(spec, sets).scale(strategy.trials) + _look(spec, sets, strategy.eval_rows).scale(1 + looks)
    if isinstance(strategy, Ensemble):
        members = [_one_training(member, sets) for member in spec.get_recipes().values()]
        return sum(members, start=_look(spec, sets, strategy.eval_rows).scale(1 + len(members)))
    return _one_training(spec, sets)


def _one_training(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    forget, other = _learned(spec, sets)
    a_step = spec.training.forget_batch * forget.tokens_per_row + spec.training.retain_batch * other.tokens_per_row
    order = 1.0 if spec.optimizer.kind == "adamw" else _CURVATURE
    return Operations(6.0 * a_step * _steps(spec, sets) * order)


def _steps(spec: JobSpec, sets: Mapping[str, SetSize]) -> int:
    forget, other = _learned(spec, sets)
    return compute_num_steps(spec.training, num_forget=forget.num_rows, num_retain=other.num_rows)


def _learned(spec: JobSpec, sets: Mapping[str, SetSize]) -> tuple[SetSize, SetSize]:
    """Return what is unlearned, earlier forget sets that join with it, and what is learned."""
    unlearned = [one for name, one in sets.items() if spec.unlearns(name)]
    rows = sum(one.num_rows for one in unlearned)
    tokens = sum(one.num_rows * one.tokens_per_row for one in unlearned) / max(1, rows)
    return SetSize(rows, tokens), sets.get(spec.learned_set, SetSize(0, 0.0))


def _look(spec: JobSpec, sets: Mapping[str, SetSize], most: int) -> Operations:
    """Return what one look at the criteria takes: of each set they rest on, at most so many rows."""
    wanted = [pair for criterion in select_search_criteria(spec, sets) for pair in get_metric_inputs(criterion)]
    found = Operations()
    for name, one in sets.items():
        if metrics := [metric for set_name, metric in wanted if set_name == name]:
            answered = any("answers" in METRIC_CATALOG[metric].needs for metric in metrics)
            found += _of_set(one, most, spec.evaluation.max_new_tokens if answered else 0)
    return found


def _measuring(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    evaluation = spec.evaluation
    measured = (_of_set(one, evaluation.max_examples, evaluation.max_new_tokens) for one in sets.values())
    return sum(measured, start=Operations())


def _of_set(one: SetSize, most: int, answer_tokens: int) -> Operations:
    """Return what one set takes: at most so many rows, each read once and answered in at most so many tokens."""
    rows = min(one.num_rows, most)
    return Operations(2.0 * rows * one.tokens_per_row, 2.0 * rows * answer_tokens * _USUAL_ANSWER_SHARE)


def _attacks(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    forget = sets.get(FORGET)
    if forget is None:
        return Operations()
    look = _of_set(forget, spec.evaluation.attack_examples, spec.evaluation.attack_new_tokens)
    return sum((_attack(attack, sets, forget, look) for attack in spec.attacks), start=Operations())


def _attack(attack: Attack, sets: Mapping[str, SetSize], forget: SetSize, look: Operations) -> Operations:
    if attack.kind in {"relearn", "downstream"}:
        learned = sets.get(attack.set)
        if learned is None:
            return Operations()
        return look + Operations(6.0 * attack.steps * attack.batch * learned.tokens_per_row)
    if attack.kind == "prompting":
        return look.scale(len(attack.templates))
    if attack.kind == "poison":  # a gradient of every row
        return Operations(6.0 * forget.num_rows * forget.tokens_per_row)
    return look

"""Estimates the floating point operations of a job: training, evaluation, generation and attacks, per model."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from soul_core.catalogue import METRIC_CATALOG
from soul_core.data.general_text import MAX_OWN_TOKENS, NUM_MEASURED, NUM_OWN_TEXTS, SAMPLE_TOKENS
from soul_core.data.held_out import count_held_out
from soul_core.spec import FORGET, GENERAL, GENERAL_OWN, RETAIN, RETAIN_HELD_OUT, JobKind, JobSpec, is_forget_set
from soul_core.spec.attacks import Attack
from soul_core.spec.generated_retain import GenerateRetain
from soul_core.spec.optimizers import Kfac, Sophia
from soul_core.spec.strategy import Ensemble, Influence, Search, get_metric_inputs, select_search_criteria
from soul_core.training.schedule import (
    MAX_FACTOR_ROWS,
    MAX_FORGET_ROWS,
    NUM_GUARD_ROWS,
    PASSES_PER_LATENT_STEP,
    SCORE_EVERY,
    compute_num_steps,
)

#: Raised when the numbers of this module change: what was learned under another version is not comparable.
COST_MODEL_VERSION = 1
#: Operations per parameter and token. A backward pass costs twice a forward pass.
FORWARD, GRADIENT = 2.0, 6.0
#: Exact products with second derivatives, in gradients (counted by tests/soul_store/test_cost_model.py).
HESSIAN_PRODUCT, GAUSS_NEWTON_PRODUCT = 3.0, 2.5
#: Dampings that an influence step tries: half of those in its range.
_DAMPING_TRIALS = 11
#: Answers are shorter than the maximum, on average.
_MEAN_ANSWER_FRACTION = 0.4
#: Prompts that are sampled per row of a generated retain set, and tokens of each.
_SAMPLES_PER_ROW, _SAMPLED_PROMPT_TOKENS = 1.5, 24
#: Generation reads all weights for each token: it is slower than its operations suggest by this factor, on a CPU.
_GENERATION_PENALTY = 8


@dataclass(frozen=True)
class SetSize:
    """The size of a data set."""

    num_rows: int
    tokens_per_row: float
    has_prompts: bool = True

    @property
    def num_tokens(self) -> float:
        return self.num_rows * self.tokens_per_row

    def limit(self, max_rows: int) -> "SetSize":
        """Return the size of at most `max_rows` rows of the set."""
        return replace(self, num_rows=min(self.num_rows, max_rows))


@dataclass(frozen=True)
class Operations:
    """Floating point operations: of passes over given tokens, and of generation, which is slower."""

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
        """The operations of passes that take as long."""
        return self.passes + self.generation * _GENERATION_PENALTY


def add_made_sets(spec: JobSpec, sets: Mapping[str, SetSize]) -> dict[str, SetSize]:
    """Return the sizes of a job's data sets as its run uses them, with the sets that the run makes itself."""
    made, sizes = spec.list_made_sets(sets), dict(sets)
    if RETAIN in made:
        sizes[RETAIN] = estimate_generated_retain(spec, sizes)
    if RETAIN_HELD_OUT in made:
        retain = sizes[RETAIN]
        if num_held_out := count_held_out(retain.num_rows, spec.data.retain_held_out):
            sizes[RETAIN] = replace(retain, num_rows=retain.num_rows - num_held_out)
            sizes[RETAIN_HELD_OUT] = replace(retain, num_rows=num_held_out)
    if GENERAL in made:
        sizes[GENERAL] = SetSize(NUM_MEASURED, SAMPLE_TOKENS, has_prompts=False)
    if GENERAL_OWN in made:
        sizes[GENERAL_OWN] = SetSize(NUM_OWN_TEXTS, MAX_OWN_TOKENS, has_prompts=False)
    return sizes


def count_operations(
    spec: JobSpec, sets: Mapping[str, SetSize], num_parameters: int, *, num_compared_models: int
) -> Operations:
    """Return the operations of a job of any kind that evaluates `num_compared_models` in addition to its own."""
    parts = count_phase_operations(spec, sets, num_parameters, num_compared_models=num_compared_models)
    return sum(parts.values(), start=Operations())


def count_phase_operations(
    spec: JobSpec, sets: Mapping[str, SetSize], num_parameters: int, *, num_compared_models: int
) -> dict[str, Operations]:
    """Return the operations of each phase; a training other than a single one is named with its strategy.

    A search ends early, an ensemble never does: their rates are not those of a single training.
    """
    evaluation, attacks = _count_evaluation(spec, sets), _count_attacks(spec, sets)
    phases = {"compare": evaluation.scale(num_compared_models), "evaluate": evaluation}
    num_models = 1 + num_compared_models
    if spec.kind != JobKind.EVALUATE:
        num_models += 1  # before and after training
        is_single = spec.strategy.kind == "single"
        training = spec.training_phase if is_single else f"{spec.training_phase}:{spec.strategy.kind}"
        written_tokens = sets[GENERAL_OWN].num_tokens if GENERAL_OWN in sets else 0.0
        baseline = evaluation + Operations(generation=FORWARD * written_tokens)
        phases |= {"baseline": baseline, training: _count_strategy(spec, sets)}
    phases["attack"] = attacks.scale(num_models)
    return {phase: per_parameter.scale(num_parameters) for phase, per_parameter in phases.items()}


def estimate_generated_retain(spec: JobSpec, sets: Mapping[str, SetSize]) -> SetSize:
    """Return the size of the retain set that the run makes: prompts like those of the forget set, and their answers."""
    settings = spec.data.auto_retain
    assert isinstance(settings, GenerateRetain)
    return SetSize(settings.num_rows, sets[FORGET].tokens_per_row + _MEAN_ANSWER_FRACTION * settings.max_new_tokens)


def count_generation(spec: JobSpec, sets: Collection[str], num_parameters: int) -> Operations:
    """Return the operations of making the retain set, if the run makes one."""
    settings = spec.data.auto_retain
    if not spec.makes_retain_set(sets) or not isinstance(settings, GenerateRetain):
        return Operations()
    num_sampled = _SAMPLES_PER_ROW * (settings.neighbors + settings.free) * _SAMPLED_PROMPT_TOKENS
    num_answered = settings.num_rows * settings.max_new_tokens
    return Operations(generation=FORWARD * (num_sampled + num_answered)).scale(num_parameters)


# --- below: operations per parameter ---


def count_training(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    """Return the operations per parameter of one training by the spec's own recipe."""
    forget, learned = _get_training_sets(spec, sets)
    if isinstance(spec.strategy, Influence):
        return Operations(_count_influence(spec.strategy, forget, learned))
    training, num_steps = spec.training, _count_steps(spec, sets)
    forget_tokens = training.forget_batch * forget.tokens_per_row
    learned_tokens = training.retain_batch * learned.tokens_per_row
    has_no_retain_term = spec.kind == JobKind.UNLEARN and spec.retain.kind == "none"
    gradients = num_steps * (forget_tokens + (0.0 if has_no_retain_term else learned_tokens))
    num_forget_gradients = 1 if spec.sharpness is None else 2
    gradients += num_steps * (num_forget_gradients - 1) * forget_tokens
    if spec.latent is not None:
        gradients += num_steps * num_forget_gradients * spec.latent.steps * PASSES_PER_LATENT_STEP * forget_tokens
    if spec.saliency is not None:
        gradients += forget.limit(spec.saliency.max_examples).num_tokens
        if spec.saliency.score != "gradient":
            gradients += learned.limit(spec.saliency.max_examples).num_tokens
    if isinstance(spec.optimizer, Sophia):
        curvature = spec.optimizer.curvature
        num_estimates = curvature.warm_start + (num_steps - 1) // curvature.every
        tokens = {"forget": forget_tokens, "both": forget_tokens + learned_tokens}
        product = HESSIAN_PRODUCT if curvature.kind == "hutchinson" else 1.0
        gradients += (
            num_estimates * product * tokens.get(curvature.data, learned_tokens)
        )  # guard rows are about as long
    scored_tokens = 0.0
    if isinstance(spec.optimizer, Kfac):
        scored_tokens += 2 * learned.limit(MAX_FACTOR_ROWS).num_tokens  # retain and guard rows; and the covariances
    if spec.optimizer.lr == "auto":
        scored_tokens += num_steps * NUM_GUARD_ROWS * learned.tokens_per_row
    if spec.training.stop_at is not None and spec.kind == JobKind.UNLEARN and spec.after.kind == "none":
        scored_tokens += num_steps / SCORE_EVERY * forget.limit(MAX_FORGET_ROWS).num_tokens
    num_written = forget.num_tokens * spec.data.paraphrases / (1 + spec.data.paraphrases)
    return Operations(GRADIENT * gradients + FORWARD * scored_tokens, generation=FORWARD * num_written)


def _count_influence(strategy: Influence, forget: SetSize, retain: SetSize) -> float:
    """Return the operations of one influence step: a gradient, products with the retain set's matrix, a search."""
    retained = retain.limit(strategy.max_examples).num_tokens
    checked = forget.limit(strategy.max_examples).num_tokens + retained
    num_checks = 1 + (1 if strategy.damping is not None else _DAMPING_TRIALS)
    gradients = forget.num_tokens + strategy.iterations * GAUSS_NEWTON_PRODUCT * retained
    return GRADIENT * gradients + FORWARD * num_checks * checked


def _count_strategy(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    """Return the operations of all trainings, and of the criteria checks of a search or an ensemble.

    Of a search the maximum: every trial to its last step.
    """
    if spec.kind == JobKind.EVALUATE:
        return Operations()
    strategy = spec.strategy
    if isinstance(strategy, Search):
        num_checks = strategy.trials * math.ceil(_count_steps(spec, sets) / strategy.eval_every)
        check = _count_criteria_check(spec, sets, strategy.eval_rows)
        return count_training(spec, sets).scale(strategy.trials) + check.scale(1 + num_checks)
    if isinstance(strategy, Ensemble):
        members = [count_training(member, sets) for member in spec.get_recipes().values()]
        check = _count_criteria_check(spec, sets, strategy.eval_rows)
        return sum(members, start=check.scale(1 + len(members)))
    return count_training(spec, sets)


def _count_steps(spec: JobSpec, sets: Mapping[str, SetSize]) -> int:
    if isinstance(spec.strategy, Influence):
        return 1
    forget, learned = _get_training_sets(spec, sets)
    return compute_num_steps(spec.training, num_forget=forget.num_rows, num_retain=learned.num_rows)


def _get_training_sets(spec: JobSpec, sets: Mapping[str, SetSize]) -> tuple[SetSize, SetSize]:
    """Return what is unlearned, prior forget sets and paraphrases included, and what is learned."""
    unlearned = [size for name, size in sets.items() if spec.unlearns(name)]
    num_rows = sum(size.num_rows for size in unlearned)
    num_tokens = sum(size.num_tokens for size in unlearned)
    unlearned_size = SetSize(num_rows * (1 + spec.data.paraphrases), num_tokens / max(1, num_rows))
    return unlearned_size, sets.get(spec.learned_set, SetSize(0, 0.0))


def _count_criteria_check(spec: JobSpec, sets: Mapping[str, SetSize], max_rows: int) -> Operations:
    """Return the operations of one check of the criteria, on at most `max_rows` of each set that they need."""
    inputs = [pair for criterion in select_search_criteria(spec, sets) for pair in get_metric_inputs(criterion)]
    total = Operations()
    for name, size in sets.items():
        metrics = [metric for set_name, metric in inputs if set_name == name]
        needs_answers = any("answers" in METRIC_CATALOG[metric].needs for metric in metrics)
        if metrics:
            total += _count_set(size, max_rows, spec.evaluation.max_new_tokens if needs_answers else 0)
    return total


def _count_evaluation(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    evaluation = spec.evaluation
    by_set = (_count_set(size, evaluation.max_examples, evaluation.max_new_tokens) for size in sets.values())
    return sum(by_set, start=_count_samples(spec, sets))


def _count_samples(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    """Return the operations of the sampled answers to the forget sets: large batches, as fast as other passes."""
    evaluation = spec.evaluation
    if not any(METRIC_CATALOG[name].needs_samples for name in evaluation.metrics if name in METRIC_CATALOG):
        return Operations()
    tokens_per_row = evaluation.leak_samples * len(evaluation.leak_temperatures) * evaluation.leak_new_tokens
    num_rows = sum(size.limit(evaluation.leak_examples).num_rows for name, size in sets.items() if is_forget_set(name))
    return Operations(FORWARD * num_rows * tokens_per_row * _MEAN_ANSWER_FRACTION)


def _count_set(size: SetSize, max_rows: int, answer_tokens: int) -> Operations:
    """Return the operations of reading at most `max_rows` rows once, and of at most `answer_tokens` per answer."""
    limited = size.limit(max_rows)
    num_answer_tokens = limited.num_rows * answer_tokens * _MEAN_ANSWER_FRACTION if size.has_prompts else 0.0
    return Operations(FORWARD * limited.num_tokens, FORWARD * num_answer_tokens)


def _count_attacks(spec: JobSpec, sets: Mapping[str, SetSize]) -> Operations:
    forget = sets.get(FORGET)
    if forget is None:
        return Operations()
    evaluation = _count_set(forget, spec.evaluation.attack_examples, spec.evaluation.attack_new_tokens)
    samples = Operations()
    if any(attack.kind == "prompting" for attack in spec.attacks):  # the same number, spread over the ways of asking
        samples = _count_samples(spec, {FORGET: forget})
    return sum((_count_attack(attack, sets, forget, evaluation) for attack in spec.attacks), start=samples)


def _count_attack(attack: Attack, sets: Mapping[str, SetSize], forget: SetSize, evaluation: Operations) -> Operations:
    """Return the operations of one attack; `evaluation` are those of evaluating the forget set once."""
    if attack.kind in {"relearn", "downstream"}:
        learned = sets.get(attack.set)
        if learned is None:
            return Operations()
        return evaluation + Operations(GRADIENT * attack.steps * attack.batch * learned.tokens_per_row)
    if attack.kind == "prompting":
        return evaluation.scale(len(attack.templates))
    if attack.kind == "poison":  # a gradient of every row
        return Operations(GRADIENT * forget.num_tokens)
    return evaluation

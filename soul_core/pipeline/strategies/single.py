"""One training from the base model, with the settings of the spec."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.data.encoding import Example
from soul_core.events import Listener
from soul_core.pipeline.guard import split_off_guard
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.report import TrialResult
from soul_core.spec import JobSpec
from soul_core.training.history import TrainingResult
from soul_core.training.schedule import compute_num_steps
from soul_core.training.trainer import StopCondition, train


@dataclass(frozen=True)
class StrategyResult:
    """The result of a strategy, in addition to the weights in the model."""

    training_result: TrainingResult
    trials: tuple[TrialResult, ...] = ()


def run_single(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Train once."""
    return StrategyResult(train_model(model_under_test, spec, state.folder, state))


def train_model(
    model_under_test: ModelUnderTest,
    spec: JobSpec,
    folder: Path,
    listener: Listener,
    *,
    should_stop: StopCondition | None = None,
) -> TrainingResult:
    """Train the model on the sets of its kind of job, until `should_stop` returns True after a step."""
    assert spec.kind != "evaluate"
    forget, retain, guard = get_training_sets(model_under_test, spec)
    return train(
        model_under_test.loaded,
        spec,
        forget=forget,
        retain=retain,
        guard=guard,
        state_dir=folder,
        listener=listener,
        phase=spec.training_phase,
        should_stop=should_stop,
    )


def count_steps(model_under_test: ModelUnderTest, spec: JobSpec) -> int:
    """Return how many steps a training on the model's sets has."""
    forget, retain, _ = get_training_sets(model_under_test, spec)
    return compute_num_steps(spec.training, num_forget=len(forget), num_retain=len(retain))


def get_training_sets(
    model_under_test: ModelUnderTest, spec: JobSpec
) -> tuple[Sequence[Example], Sequence[Example], Sequence[Example]]:
    """Return the examples to unlearn, none in a fine-tuning, those to retain or learn, and guard examples."""
    learned, guard = split_off_guard(model_under_test, model_under_test.datasets.get(spec.learned_set), spec)
    forget = [example for dataset in model_under_test.list_forget_sets(spec) for example in dataset.examples]
    return forget, learned, guard

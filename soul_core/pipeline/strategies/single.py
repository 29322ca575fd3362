"""One training from the base, with the settings as they stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.data.encoding import Example
from soul_core.events import Listener
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.report import TrialResult
from soul_core.spec import JobSpec
from soul_core.training.history import TrainingResult
from soul_core.training.schedule import compute_num_steps
from soul_core.training.trainer import StopCondition, train


@dataclass(frozen=True)
class StrategyResult:
    """What a strategy leaves behind, beside the weights in the model."""

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
    watch: StopCondition | None = None,
) -> TrainingResult:
    """Train the model on the sets of its kind of job. `watch` is asked after each step whether that is enough."""
    assert spec.kind != "evaluate"
    forget, retain = _learned(model_under_test, spec)
    return train(
        model_under_test.loaded,
        spec,
        forget=forget,
        retain=retain,
        state_dir=folder,
        listener=listener,
        phase=spec.training_phase,
        should_stop=watch,
    )


def count_steps(model_under_test: ModelUnderTest, spec: JobSpec) -> int:
    """Return how many steps a training on the model's sets has."""
    forget, retain = _learned(model_under_test, spec)
    return compute_num_steps(spec.training, num_forget=len(forget), num_retain=len(retain))


def _learned(subject: ModelUnderTest, spec: JobSpec) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return what is unlearned, nothing in a fine-tuning, and what is kept or learned."""
    kept = subject.datasets.get(spec.learned_set)
    forget = [each for one in subject.list_forget_sets(spec) for each in one.examples]
    return forget, kept.examples if kept else ()

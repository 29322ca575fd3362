"""One static step from the base model, instead of a training."""

from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.single import StrategyResult, get_training_sets
from soul_core.spec import JobSpec
from soul_core.training.influence import take_influence_step


def run_influence(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Take the step."""
    forget, retain, _ = get_training_sets(model_under_test, spec)
    result = take_influence_step(
        model_under_test.loaded, spec, forget=forget, retain=retain, state_dir=state.folder, listener=state
    )
    return StrategyResult(result)

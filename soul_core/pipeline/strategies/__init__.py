"""The table of strategies: kind in the spec -> how the base model is trained into the resulting model."""

from collections.abc import Callable

from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.ensemble import run_ensemble
from soul_core.pipeline.strategies.influence import run_influence
from soul_core.pipeline.strategies.search import run_search
from soul_core.pipeline.strategies.single import StrategyResult, run_single
from soul_core.spec import JobSpec

STRATEGIES: dict[str, Callable[[ModelUnderTest, JobSpec, RunState], StrategyResult]] = {
    "single": run_single,
    "search": run_search,
    "ensemble": run_ensemble,
    "influence": run_influence,
}

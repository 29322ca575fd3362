"""The table of strategies: kind -> how the base becomes the model of the result."""

from collections.abc import Callable

from soul_core.pipeline.model_under_test import Subject
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.ensemble import ensemble
from soul_core.pipeline.strategies.search import search
from soul_core.pipeline.strategies.single import Outcome, single
from soul_core.spec import JobSpec

STRATEGIES: dict[str, Callable[[Subject, JobSpec, RunState], Outcome]] = {
    "single": single,
    "search": search,
    "ensemble": ensemble,
}

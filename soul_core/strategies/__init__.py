"""The table of strategies: kind -> how the base becomes the model of the result."""

from collections.abc import Callable

from soul_core.run_state import RunState
from soul_core.spec import JobSpec
from soul_core.strategies.ensemble import ensemble
from soul_core.strategies.search import search
from soul_core.strategies.single import Outcome, single
from soul_core.subject import Subject

STRATEGIES: dict[str, Callable[[Subject, JobSpec, RunState], Outcome]] = {
    "single": single,
    "search": search,
    "ensemble": ensemble,
}

"""The table of attacks: kind in the spec -> function of context and settings. `runner` runs them and compares models.

A new attack: a module with a function `run_<kind>`, its settings class in `soul_core.spec.attacks`, one line here.
"""

from collections.abc import Callable
from typing import Any

from soul_core.attacks.context import AttackContext
from soul_core.attacks.finetuning import run_downstream
from soul_core.attacks.poison import run_poison
from soul_core.attacks.probing import run_probing
from soul_core.attacks.prompting import run_prompting
from soul_core.attacks.quantize import run_quantize
from soul_core.attacks.relearn import run_relearn
from soul_core.evaluation.model_evaluation import AttackOutcome

ATTACKS: dict[str, Callable[[AttackContext, Any], AttackOutcome]] = {
    "relearn": run_relearn,
    "quantize": run_quantize,
    "prompting": run_prompting,
    "downstream": run_downstream,
    "probing": run_probing,
    "poison": run_poison,
}

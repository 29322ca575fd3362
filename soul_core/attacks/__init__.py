"""The attack table: kind of the spec -> function of a scene. `arena` runs them on a model and compares models."""

from collections.abc import Callable
from typing import Any

from soul_core.attacks.context import Attacked, Scene
from soul_core.attacks.downstream import downstream
from soul_core.attacks.poison import poison
from soul_core.attacks.probing import probing
from soul_core.attacks.prompting import prompting
from soul_core.attacks.quantize import quantise
from soul_core.attacks.relearn import relearn

ATTACKS: dict[str, Callable[[Scene, Any], Attacked]] = {
    "relearn": relearn,
    "quantise": quantise,
    "prompting": prompting,
    "downstream": downstream,
    "probing": probing,
    "poison": poison,
}

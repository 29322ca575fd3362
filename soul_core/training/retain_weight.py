"""The retain term's weight: the spec's own number, or under `pdu` that times a dual variable, which is run state.

Source: Entesari et al. 2025, arXiv:2506.05314: lambda <- max(0, lambda + step * (retain loss - bound)) after every
update. Differs from it: the bound of a step is the base model's loss on the step's own examples plus the slack; under
`kl`, which is zero at the base, the slack alone.
"""

from collections.abc import Sequence

from soul_core.spec import JobSpec
from soul_core.spec.terms import NoRetain, Pdu
from soul_core.training.base_scores import BaseScores
from soul_core.training.micro_batching import BatchUnit


class RetainWeight:
    """What the retain term is multiplied by in the total loss."""

    def __init__(self, spec: JobSpec) -> None:
        self._own = 0.0 if isinstance(spec.retain, NoRetain) else spec.retain.weight
        self._pdu = spec.forget if spec.kind == "unlearn" and isinstance(spec.forget, Pdu) else None
        self._of_base = spec.retain.kind != "kl"
        self._dual = self._pdu.dual_start if self._pdu else 1.0

    @property
    def value(self) -> float:
        """The weight of the next step."""
        return self._own * self._dual

    def update(self, step: int, retain_loss: float, units: Sequence[BatchUnit], base_scores: BaseScores) -> None:
        """Move the dual variable by what the retain loss of step number `step` (from 0) was over its bound."""
        if self._pdu is None or step < self._pdu.dual_warmup:
            return
        items = [item for unit in units for item in unit if item.group == "retain"]
        bound = self._pdu.slack
        if self._of_base:
            num_tokens = sum(len(item.example.token_ids) - item.example.num_prompt_tokens for item in items)
            bound += base_scores.mean_nll("retain", [item.index for item in items], num_tokens)
        self._dual = max(0.0, self._dual + self._pdu.dual_step * (retain_loss - bound))

    def get_curve(self) -> dict[str, float]:
        """Return what has a curve of its own: the weight, where it moves."""
        return {"retain_weight": self.value} if self._pdu else {}

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run must know."""
        return {"dual": self._dual}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Undo `state`."""
        self._dual = state["dual"]

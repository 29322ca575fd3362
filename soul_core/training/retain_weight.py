"""The retain term's weight: the spec's own number, or under `pdu` that number times a dual variable.

Source: Entesari et al. 2025, arXiv:2506.05314: lambda <- max(0, lambda + step * (retain loss - bound)) after every
update.
Differs from it: the bound of a step is the base model's loss on the step's own examples plus the slack; under a retain
term that is zero at the base model (`kl`), the slack alone.
"""

from collections.abc import Sequence

from soul_core.objectives import get_terms
from soul_core.spec import JobSpec
from soul_core.training.base_scores import BaseScores
from soul_core.training.micro_batching import BatchUnit


class RetainWeight:
    """The factor of the retain term in the total loss. The dual variable is part of a checkpoint."""

    def __init__(self, spec: JobSpec) -> None:
        terms = get_terms(spec)
        forget, retain = terms.get("forget"), terms.get("retain")
        self._weight = float(retain.spec.weight) if retain else 0.0
        self._is_zero_at_base = retain is not None and retain.term.is_zero_at_base
        self._settings = forget.term.dual(forget.spec) if forget and forget.term.dual else None
        self._dual = self._settings.start if self._settings else 1.0

    @property
    def value(self) -> float:
        """The weight of the next step."""
        return self._weight * self._dual

    def update(self, step: int, retain_loss: float, units: Sequence[BatchUnit], base_scores: BaseScores) -> None:
        """Move the dual variable by the excess of the retain loss over its bound, after step number `step` (from 0).

        Args:
            retain_loss: The step's, in nats per token.
            units: The step's examples, of all groups.
        """
        settings = self._settings
        if settings is None or step < settings.num_warmup_steps:
            return
        bound = settings.slack
        if not self._is_zero_at_base:
            items = [item for unit in units for item in unit if item.group == "retain"]
            num_tokens = sum(len(item.example.token_ids) - item.example.num_prompt_tokens for item in items)
            bound += base_scores.mean_nll("retain", [item.index for item in items], num_tokens)
        self._dual = max(0.0, self._dual + settings.step * (retain_loss - bound))

    def get_curve(self) -> dict[str, float]:
        """Return the point of the curve `retain_weight`, if the weight changes during the run."""
        return {"retain_weight": self.value} if self._settings else {}

    def state_dict(self) -> dict[str, float]:
        """Return the dual variable."""
        return {"dual": self._dual}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the dual variable."""
        self._dual = state["dual"]

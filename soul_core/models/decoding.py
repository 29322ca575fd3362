"""The next-token logits of a batch of rows: from a cache where that is exact, else from the complete rows each time.

`load_model` decides which (`probes`): recurrent states can run through left padding, some architectures have a cache of
another kind, and LongRoPE would read the old keys of a long text with the frequencies of short ones.

Shapes: B rows, L new tokens of each, W tokens of the longest row so far, V vocabulary size.
"""

from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from soul_core.models.capabilities import get_capabilities
from soul_core.models.forward_calls import compute_logits, make_last_token_calls, restore_order


@dataclass(slots=True)
class RowCache:
    """What is stored of the rows so far: keys, values and states of the model, the tokens themselves, or both."""

    states: DynamicCache | None
    keeps_tokens: bool
    rows: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> "RowCache":
        """Return an empty cache of the kind that decoding with this model needs."""
        capabilities = get_capabilities(model)
        states = DynamicCache(config=model.config) if capabilities.supports_cache else None
        return cls(states, keeps_tokens=states is None or capabilities.max_short_rope_tokens is not None)

    def select_rows(self, rows_B: torch.Tensor) -> None:
        """Keep only these rows."""
        if self.states is not None:
            self.states.reorder_cache(rows_B)  # batch_select_indices ignores recurrent states
        if self.keeps_tokens:
            self.rows = [self.rows[row] for row in rows_B.tolist()]

    def extend(self, input_BL: torch.Tensor, mask_BL: torch.Tensor) -> None:
        """Append tokens to the rows, without padding."""
        new = [ids[mask.bool()] for ids, mask in zip(input_BL, mask_BL, strict=True)]
        self.rows = [torch.cat(pair) for pair in zip(self.rows, new, strict=True)] if self.rows else new


def compute_next_logits(
    model: PreTrainedModel, input_BL: torch.Tensor, mask_BW: torch.Tensor, position_BL: torch.Tensor, cache: RowCache
) -> torch.Tensor:
    """Return the logits of the token after each row, (B, V).

    Args:
        input_BL: The prompts, padded on the left, or the tokens chosen last.
        mask_BW: 0 for padding, over the rows so far, `input_BL` included.
    """
    if cache.keeps_tokens:
        cache.extend(input_BL, mask_BW[:, -input_BL.shape[1] :])
    limit = get_capabilities(model).max_short_rope_tokens
    if cache.states is None or (limit is not None and mask_BW.shape[1] > limit):
        calls = make_last_token_calls(model, cache.rows)
        return restore_order(calls, [compute_logits(model, call) for call in calls])
    logits_B1V: torch.Tensor = model(
        input_ids=input_BL,
        attention_mask=mask_BW,
        position_ids=position_BL,
        past_key_values=cache.states,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits_B1V[:, -1]


def invert_cumulative(cumulative_PV: torch.Tensor, uniform_PM: torch.Tensor) -> torch.Tensor:
    """Return the tokens (P, M) at which each row's cumulative distribution exceeds its M numbers in [0, 1)."""
    target_PM = uniform_PM.to(cumulative_PV) * cumulative_PV[:, -1:]
    return torch.searchsorted(cumulative_PV, target_PM, right=True).clamp(max=cumulative_PV.shape[-1] - 1)

"""What follows a batch of rows, token by token: with a cache where that is exact, else from the whole rows each time.

`load_model` finds which (`probes`): some states run through left padding, some caches are of another kind,
and LongRoPE would read a long text's old keys with the frequencies of short ones.
"""

from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from soul_core.models.capabilities import get_capabilities
from soul_core.models.forward_calls import compute_logits, make_last_token_calls, restore_order


@dataclass(slots=True)
class RowCache:
    """What a model keeps of the rows so far: keys, values and states, the tokens themselves, or both."""

    states: DynamicCache | None
    keeps_tokens: bool
    rows: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> "RowCache":
        """Return an empty cache of the kind that this model's decoding needs."""
        found = get_capabilities(model)
        states = DynamicCache(config=model.config) if found.supports_cache else None
        return cls(states, keeps_tokens=states is None or found.max_short_rope_tokens is not None)

    def select_rows(self, rows_B: torch.Tensor) -> None:
        """Drop all rows but these."""
        if self.states is not None:
            self.states.reorder_cache(rows_B)  # batch_select_indices knows no recurrent states
        if self.keeps_tokens:
            self.rows = [self.rows[row] for row in rows_B.tolist()]

    def extend(self, input_BL: torch.Tensor, mask_BL: torch.Tensor) -> None:
        """Add tokens to the rows, without padding."""
        new = [ids[mask.bool()] for ids, mask in zip(input_BL, mask_BL, strict=True)]
        self.rows = [torch.cat(pair) for pair in zip(self.rows, new, strict=True)] if self.rows else new


def compute_next_logits(
    model: PreTrainedModel, input_BL: torch.Tensor, mask_BW: torch.Tensor, position_BL: torch.Tensor, cache: RowCache
) -> torch.Tensor:
    """Return the logits of what follows each row, (B, V), after `input_BL`: the prompts, padded on the left, or the
    tokens chosen last. `mask_BW` covers the rows so far.
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

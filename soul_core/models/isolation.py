"""Tests on a loaded model that packed examples do not attend to each other.

Shapes: D distances between two positions.
"""

from typing import cast

import torch
from transformers import PreTrainedModel

from soul_core.data.encoding import Example
from soul_core.data.packing import PackedBatch, pack
from soul_core.models.packed_attention import MaskLog, log_masks, make_packed_kwargs


@torch.no_grad()
def check_isolation(model: PreTrainedModel, *, tolerance: float = 1e-2) -> None:
    """Raise ValueError unless packed examples have the scores of single ones.

    The tolerance is loose because kernels and compute types round differently; a leak differs by whole units.
    """
    device = next(model.parameters()).device
    num_tokens = model.get_input_embeddings().num_embeddings
    ids = tuple((7 * index + 3) % num_tokens for index in range(11))
    examples = [Example(ids[:5], 1, 1), Example(ids[5:], 1, 2)]
    refusal = f"{type(model).__name__} cannot be trained on packed examples"
    try:
        packed = _compute_packed_logits(model, pack(examples, device))
        with log_masks() as log:
            plain = torch.cat(
                [
                    model(torch.tensor([example.token_ids], device=device), use_cache=False).logits[0, :-1]
                    for example in examples
                ]
            )
        has_unusual_mask = any(_is_unusual(log, mask, window, device) for mask, window in log.layers)
    except Exception as error:  # architectures fail with exceptions of any class
        raise ValueError(f"{refusal}: {error}") from error
    scale = plain.float().abs().amax().clamp(min=1.0)
    if packed.shape != plain.shape or not ((packed - plain).float().abs().amax() <= tolerance * scale):
        raise ValueError(f"{refusal}: they would attend to each other")
    if has_unusual_mask:
        raise ValueError(f"{refusal}: the mask of its layers is not causal order within their window")
    if not log.layers:
        raise ValueError(f"{refusal}: it has no attention layers that support another attention function")


def _is_unusual(log: MaskLog, mask: torch.Tensor | None, window: int | None, device: torch.device) -> bool:
    """Return whether a layer's mask differs anywhere from causal order within its window.

    The mask's function is evaluated at positions far beyond the length of any call.
    """
    if mask is None:
        return False
    functions = [function for made, function in log.masks if made.data_ptr() == mask.data_ptr()]
    if not functions:
        return True
    reach = 1 << 22
    distances = sorted({0, *(1 << power for power in range(23)), *((window - 1, window, window + 1) if window else ())})
    zero = torch.zeros((), dtype=torch.long, device=device)
    distance_D = torch.tensor(distances, device=device)
    expected_D = distance_D < window if window else distance_D >= 0
    return any(
        not torch.equal(functions[0](zero, zero, zero + query, query - distance_D).expand(len(distances)), expected_D)
        for query in (2 * reach, 2 * reach + 12_345)
    )


def _compute_packed_logits(model: PreTrainedModel, packed: PackedBatch) -> torch.Tensor:
    output = model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        use_cache=False,
        logits_to_keep=packed.supervised_P,
        **make_packed_kwargs(packed),
    )
    return cast("torch.Tensor", output.logits[0])

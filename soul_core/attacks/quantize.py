"""Quantization: round the weights to few bits and back in place, so that it runs anywhere a float model does.

Source: Zhang et al. (arXiv:2410.16454): a model that forgot by small changes of its weights remembers at 4 bits. The
rounding is plain absolute-maximum rounding to nearest, a row at a time as in LLM.int8 (arXiv:2208.07339) or in groups
along a row as in ZeroQuant (arXiv:2206.01861).
Differs from deployed formats: activations stay in the compute type, and scales are not rounded themselves.
"""

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from soul_core.attacks.context import AttackContext, AttackOutcome
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.events import raise_if_stop_requested
from soul_core.spec.attacks import Quantize

#: Weights that are rounded at a time: what the temporary copies of a large embedding may take.
_WEIGHTS_AT_ONCE = 1 << 24


def run_quantize(context: AttackContext, spec: Quantize) -> AttackOutcome:
    """Round every weight matrix and measure the forget rows."""
    with preserve_model_state(context.loaded.model):
        num_rounded = num_other = 0
        for weights_RC, parameter in list_weight_matrices(context.loaded.model):
            raise_if_stop_requested(context.listener)
            if weights_RC is None:
                num_other += parameter.numel()
            else:
                round_in_place(weights_RC, bits=spec.bits, group_size=spec.group)
                num_rounded += parameter.numel()
        share = num_rounded / max(1, num_rounded + num_other)
        return context.measure_forget_rows(
            f"{share:.1%} of the parameters were rounded to {spec.bits} bits, one scale "
            f"{f'for {spec.group} weights' if spec.group else 'a row'}; norms and biases stayed."
        )


def list_weight_matrices(model: PreTrainedModel) -> list[tuple[torch.Tensor | None, torch.nn.Parameter]]:
    """Return each parameter once, with its weights as (rows = outputs or tokens, columns), or None for a vector."""
    found: dict[int, tuple[torch.Tensor | None, torch.nn.Parameter]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            weights = parameter.detach() if parameter.ndim >= 2 and parameter.is_floating_point() else None
            if weights is not None and isinstance(module, Conv1D):
                weights = weights.T  # GPT-2 keeps (inputs, outputs)
            found.setdefault(id(parameter), (weights, parameter))
    return list(found.values())


@torch.no_grad()
def round_in_place(weights_RC: torch.Tensor, *, bits: int, group_size: int) -> None:
    """Round to scale * q with whole q in [-(2^(bits-1) - 1), 2^(bits-1) - 1] and scale = max|w| / (2^(bits-1) - 1).

    Symmetric, so 0 stays 0. `group` weights along a row share a scale, the last group may be shorter; 0: the row does.
    A group of zeros stays as it is. Error: at most half a scale a weight.
    """
    width = group_size or weights_RC.shape[-1]
    whole = weights_RC.shape[-1] // width * width
    rows_at_once = max(1, _WEIGHTS_AT_ONCE // weights_RC[0].numel())
    for start in range(0, weights_RC.shape[0], rows_at_once):
        rows_RC = weights_RC[start : start + rows_at_once]
        if whole:
            _round(rows_RC[..., :whole].unflatten(-1, (-1, width)), bits)
        if whole < weights_RC.shape[-1]:
            _round(rows_RC[..., whole:], bits)


def _round(groups: torch.Tensor, bits: int) -> None:
    """Round in place what the last dimension holds together."""
    most = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(dim=-1, keepdim=True) / most
    rounded = (groups / scale.clamp(min=torch.finfo(groups.dtype).tiny)).round_().clamp_(-most, most)
    groups.copy_(rounded.mul_(scale))

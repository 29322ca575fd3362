"""Quantization: round the weights to few bits and back in place, so that it runs anywhere a float model does.

Source: Zhang et al. (arXiv:2410.16454): a model that unlearned by small weight changes remembers at 4 bits. The
rounding is plain absolute-maximum rounding to nearest, per row as in LLM.int8 (arXiv:2208.07339) or in groups along a
row as in ZeroQuant (arXiv:2206.01861).
Differs from deployed formats: activations stay in the compute type, and scales are not rounded themselves.
"""

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from soul_core.attacks.context import AttackContext
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.events import raise_if_stop_requested
from soul_core.spec.attacks import Quantize

#: Weights that are rounded at a time, which bounds the temporary copies of a large embedding.
_MAX_WEIGHTS = 1 << 24


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
        fraction = num_rounded / max(1, num_rounded + num_other)
        return context.measure_forget_rows(
            f"{fraction:.1%} of the parameters were rounded to {spec.bits} bits, one scale per "
            f"{f'{spec.group} weights' if spec.group else 'row'}; norms and biases were not."
        )


def list_weight_matrices(model: PreTrainedModel) -> list[tuple[torch.Tensor | None, torch.nn.Parameter]]:
    """Return each parameter once, with its weights as (rows = outputs or tokens, columns), or None for a vector."""
    matrices: dict[int, tuple[torch.Tensor | None, torch.nn.Parameter]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            weights = parameter.detach() if parameter.ndim >= 2 and parameter.is_floating_point() else None
            if weights is not None and isinstance(module, Conv1D):
                weights = weights.T  # GPT-2 stores (inputs, outputs)
            matrices.setdefault(id(parameter), (weights, parameter))
    return list(matrices.values())


@torch.no_grad()
def round_in_place(weights_RC: torch.Tensor, *, bits: int, group_size: int) -> None:
    """Round to scale * q with integer q in [-(2^(bits-1) - 1), 2^(bits-1) - 1] and scale = max|w| / (2^(bits-1) - 1).

    Symmetric, so 0 stays 0, and a group of zeros does not change. The error is at most half a scale per weight.

    Args:
        group_size: Weights along a row that share a scale; the last group may be shorter. 0: one scale per row.
    """
    width = group_size or weights_RC.shape[-1]
    num_grouped = weights_RC.shape[-1] // width * width
    rows_at_once = max(1, _MAX_WEIGHTS // weights_RC[0].numel())
    for start in range(0, weights_RC.shape[0], rows_at_once):
        rows_RC = weights_RC[start : start + rows_at_once]
        if num_grouped:
            _round_groups(rows_RC[..., :num_grouped].unflatten(-1, (-1, width)), bits)
        if num_grouped < weights_RC.shape[-1]:
            _round_groups(rows_RC[..., num_grouped:], bits)


def _round_groups(groups: torch.Tensor, bits: int) -> None:
    """Round in place; the last dimension is one group."""
    max_level = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(dim=-1, keepdim=True) / max_level
    rounded = (groups / scale.clamp(min=torch.finfo(groups.dtype).tiny)).round_().clamp_(-max_level, max_level)
    groups.copy_(rounded.mul_(scale))

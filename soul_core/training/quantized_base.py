"""Linear layers whose frozen weights are stored in few bits while their adapters train, as in QLoRA.

Source: Dettmers et al. 2023, arXiv:2305.14314 (4-bit NormalFloat with double quantization; weights dequantized for each
product). Differs from it: int8 and plain bfloat16 are choices too, and the original weights are kept in the host's
memory: adapters are merged into them, not into the rounded ones.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional

from soul_core.errors import BadSpec

StorageFormat = Literal["bfloat16", "int8", "nf4"]

#: Weights that share a scale in nf4, and scales that share one themselves.
_BLOCK, _SCALE_BLOCK = 64, 256


def check_quantizable(layer: torch.nn.Linear, storage_format: StorageFormat) -> None:
    """Raise BadSpec where this platform, or the layer's shape, does not allow it."""
    if storage_format != "bfloat16":
        _torchao(storage_format)
    if storage_format == "nf4" and layer.weight.numel() % _BLOCK:
        raise BadSpec(
            f"lora.base_weights: 'nf4' packs {_BLOCK} weights, and a layer has {layer.weight.numel()}; take 'int8'"
        )


class FrozenLinear(torch.nn.Linear):
    """A linear layer that computes what the original would, except for the rounding of its weights."""

    def __init__(self, original: torch.nn.Linear, storage_format: StorageFormat) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = original.in_features, original.out_features, original.bias
        weight = original.weight.detach()
        self._whole = _STORAGE_FORMATS[storage_format](weight)
        self._device = weight.device
        # empty: what peft asks for the device and the type of its adapters
        self.register_buffer("weight", torch.empty(0, device=weight.device, dtype=weight.dtype), persistent=False)
        original.to("cpu")  # the accelerator is what this saves
        self._original = (original,)  # a tuple: no submodule, so no parameter of the model in training

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's own name
        product: torch.Tensor = _Product.apply(input, self._whole)
        return product if self.bias is None else product + self.bias

    @property
    def original_weight(self) -> torch.Tensor:
        """What the weight was before its rounding, in the host's memory."""
        return self._original[0].weight

    def restore_original(self) -> torch.nn.Linear:
        """Return the original layer, on its device."""
        return self._original[0].to(self._device)


#: Makes the weights whole, in some type.
Dequantizer = Callable[[torch.dtype], torch.Tensor]


class _Product(torch.autograd.Function):
    """x W^T with a frozen W that is dequantized again for the backward pass instead of being stored for it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, whole: Dequantizer) -> torch.Tensor:
        ctx.whole = whole
        return functional.linear(x, whole(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.whole(gradient.dtype), None


def _bfloat16(weight: torch.Tensor) -> Dequantizer:
    return weight.to(torch.bfloat16).to


def _int8(weight: torch.Tensor) -> Dequantizer:
    torchao = _torchao("int8")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    stored: Any = layer.weight.detach()
    return lambda dtype: stored.dequantize().to(dtype)


def _nf4(weight: torch.Tensor) -> Dequantizer:
    torchao = _torchao("nf4")
    num_blocks = weight.numel() // _BLOCK
    scale_block = next(size for size in range(min(_SCALE_BLOCK, num_blocks), 0, -1) if num_blocks % size == 0)
    stored = torchao.to_nf4(weight.contiguous(), block_size=_BLOCK, scaler_block_size=scale_block)
    return lambda dtype: stored.get_original_weight().to(dtype)


def _torchao(storage_format: str) -> Any:
    try:
        import torchao.quantization
    except (ImportError, OSError, AttributeError) as error:  # missing, or built for another torch
        raise BadSpec(
            f"lora.base_weights: '{storage_format}' needs torchao on the worker (pip install "
            f"'soul-unlearning[quantized]'), which cannot be used here: {type(error).__name__}; take 'bfloat16'"
        ) from error
    return torchao.quantization


_STORAGE_FORMATS: dict[StorageFormat, Callable[[torch.Tensor], Dequantizer]] = {
    "bfloat16": _bfloat16,
    "int8": _int8,
    "nf4": _nf4,
}

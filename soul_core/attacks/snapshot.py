"""Restores a model bit-identically after an attack, however the attack ended."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

#: A copy stays on the GPU if this many times its size is free: training inside an attack needs three more.
_MIN_FREE_FACTOR = 6
_INTEGER_DTYPES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def preserve_model_state(model: PreTrainedModel) -> Iterator[None]:
    """Restore parameters, buffers, `requires_grad` and training mode at the end, also after an exception.

    Gradients are cleared.
    """
    tensors = list_tensors(model)
    device = _choose_device(model, tensors)
    copies = [tensor.detach().to(device, copy=True) for tensor in tensors]
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for parameter, required in requires_grad:
            parameter.grad = None
            parameter.requires_grad_(required)
        for module, training in modes:
            module.training = training


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the state of every global random generator at the end."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_gpus is not None:
            torch.cuda.set_rng_state_all(of_gpus)


@torch.no_grad()
def compute_fingerprint(model: PreTrainedModel) -> list[int]:
    """Return the sum of each tensor's bits, read as integers: one pass over memory, exact in any order."""
    bits = (tensor.detach().contiguous().view(_INTEGER_DTYPES[tensor.element_size()]) for tensor in list_tensors(model))
    sums = [tensor.sum(dtype=torch.int64) for tensor in bits]
    return torch.stack(sums).tolist() if sums else []


def list_tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return parameters and buffers, tied ones once; of a sharded model, this process's part."""
    return [_get_local_part(tensor) for tensor in [*model.parameters(), *model.buffers()]]


def _get_local_part(tensor: torch.Tensor) -> torch.Tensor:
    to_local: Any = getattr(tensor, "to_local", None)
    return to_local() if to_local else tensor


def _choose_device(model: PreTrainedModel, tensors: list[torch.Tensor]) -> torch.device:
    if model.device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(model.device)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return model.device if free >= _MIN_FREE_FACTOR * needed else torch.device("cpu")

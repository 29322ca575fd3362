"""Selects the weights that matter most for the forget set, once, on the base model; the others are frozen.

Source: SalUn (Fan et al. 2023, arXiv:2310.12508, equation 5): a mask of the largest |gradient of the forget loss|;
WAGLE (Jia et al. 2024, arXiv:2410.17509): |w g_f - g_r g_f / gamma|.
Differs from them: the gradients are of the answers' NLL whatever the forget term, and a fraction of the weights is
selected, not those above a threshold.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from soul_core.data.encoding import Example
from soul_core.models.loading import LoadedModel
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec.wrappers import Saliency
from soul_core.training.checkpoint import save_tensors
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters

_FILE = "saliency.safetensors"
_TINY = 1e-12


class SaliencyMask:
    """One boolean per trainable weight: whether it is trained."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self.trainable_fraction = sum(int(mask.sum()) for mask in tensors) / sum(mask.numel() for mask in tensors)
        """Fraction of the trainable weights that the mask selects."""

    def apply(self, values: Sequence[torch.Tensor | None]) -> None:
        """Set the values (gradients, curvature) of frozen weights to zero."""
        for value, mask in zip(values, self._tensors, strict=True):
            if value is not None:
                value.mul_(mask)

    @contextmanager
    def hold_frozen(self, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
        """Restore the frozen weights after a step that may change them, as weight decay does."""
        frozen = [parameter.detach()[~mask] for parameter, mask in zip(parameters, self._tensors, strict=True)]
        yield
        with torch.no_grad():
            for parameter, mask, values in zip(parameters, self._tensors, frozen, strict=True):
                parameter[~mask] = values

    def save(self, folder: Path) -> None:
        """Store the mask for a resumed run, whose model is no longer the base model."""
        save_tensors(
            folder / _FILE, {str(number): mask for number, mask in enumerate(self._tensors)}, "the saliency mask"
        )


def load_or_compute_mask(
    loaded: LoadedModel,
    spec: Saliency | None,
    groups: Mapping[ExampleGroup, Sequence[Example]],
    *,
    seed: int,
    batcher: MicroBatcher,
    folder: Path,
) -> SaliencyMask | None:
    """Return the mask that an earlier attempt stored in `folder`, else compute it on the base model; None: no spec."""
    if spec is None:
        return None
    if (folder / _FILE).exists():
        stored = load_file(folder / _FILE, device=str(loaded.device))
        return SaliencyMask([stored[str(number)] for number in range(len(stored))])
    units = select_units("forget", groups["forget"], spec.max_examples, seed)
    forget_gradients, _ = compute_nll_gradients(loaded, units, batcher)
    retain_gradients = forget_gradients
    if spec.score != "gradient":
        units = select_units("retain", groups["retain"], spec.max_examples, seed)
        retain_gradients, _ = compute_nll_gradients(loaded, units, batcher)
    parameters = get_trainable_parameters(loaded)
    scores = [
        _compute_scores(spec, parameter.detach(), forget, retain)
        for parameter, forget, retain in zip(parameters, forget_gradients, retain_gradients, strict=True)
    ]
    threshold = _find_threshold(scores, spec.keep_fraction)
    mask = SaliencyMask([score >= threshold for score in scores])
    mask.save(folder)
    return mask


def select_units(group: ExampleGroup, examples: Sequence[Example], max_units: int, seed: int) -> list[BatchUnit]:
    """Return a unit for each example of a set; of a larger set `max_units`, drawn by the seed, in the set's order."""
    indices: Sequence[int] = range(len(examples))
    if len(examples) > max_units:
        indices = sorted(np.random.default_rng(seed).permutation(len(examples))[:max_units].tolist())
    return [(BatchItem(group, index, examples[index]),) for index in indices]


def _compute_scores(spec: Saliency, weight: torch.Tensor, forget: torch.Tensor, retain: torch.Tensor) -> torch.Tensor:
    if spec.score == "relative":
        return forget.abs() / (retain.abs() + _TINY)
    if spec.score == "wagle":
        return (weight * forget - retain * forget / spec.gamma).abs()
    return forget.abs()


def _find_threshold(scores: Sequence[torch.Tensor], fraction: float) -> float:
    """Return the score that `fraction` of all weights reach; never zero, because a weight with score 0 does not matter.

    Bisection over the 31 bits of a non-negative float32, which sort as the numbers do; it needs no copy of all scores.
    """
    num_selected = fraction * sum(score.numel() for score in scores)
    bits = [score.float().contiguous().view(torch.int32) for score in scores]
    low, high = 1, int(torch.tensor(float("inf")).view(torch.int32))  # enough scores reach low, or it is the smallest
    while high - low > 1:
        middle = (low + high) // 2
        if sum(int((part >= middle).sum()) for part in bits) >= num_selected:
            low = middle
        else:
            high = middle
    return float(torch.tensor(low, dtype=torch.int32).view(torch.float32))

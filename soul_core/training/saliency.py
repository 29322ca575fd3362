"""The weights that matter most for the forget set, chosen once on the base model; the others are held still.

Source: SalUn (Fan et al. 2023, arXiv:2310.12508, equation 5): a mask of the largest |gradient of the forget loss|;
WAGLE (Jia et al. 2024, arXiv:2410.17509): |w g_f - g_r g_f / gamma|.
Differs from them: the gradients are of the answers' NLL whatever the forget term, and a
fraction is kept, not a threshold.
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
    """One boolean a trainable weight: whether it may move."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self.trainable_fraction = sum(int(mask.sum()) for mask in tensors) / sum(mask.numel() for mask in tensors)
        """Share of the trainable weights that may move."""

    def apply(self, values: Sequence[torch.Tensor | None]) -> None:
        """Set to zero what belongs to weights held still: gradients, curvature."""
        for value, mask in zip(values, self._tensors, strict=True):
            if value is not None:
                value.mul_(mask)

    @contextmanager
    def hold_frozen(self, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
        """Put back the weights held still after a step that may move them: weight decay does."""
        held = [parameter.detach()[~mask] for parameter, mask in zip(parameters, self._tensors, strict=True)]
        yield
        with torch.no_grad():
            for parameter, mask, values in zip(parameters, self._tensors, held, strict=True):
                parameter[~mask] = values

    def save(self, folder: Path) -> None:
        """Keep the mask for a resumed run, whose model is no longer the base."""
        save_tensors(folder / _FILE, {str(i): mask for i, mask in enumerate(self._tensors)}, "the saliency mask")


def load_or_compute_mask(
    loaded: LoadedModel,
    spec: Saliency,
    groups: Mapping[ExampleGroup, Sequence[Example]],
    *,
    seed: int,
    batcher: MicroBatcher,
    folder: Path,
) -> SaliencyMask:
    """Return the mask an earlier attempt saved in `folder`, or choose it: the model must still be the base then."""
    if (folder / _FILE).exists():
        saved = load_file(folder / _FILE, device=str(loaded.device))
        return SaliencyMask([saved[str(number)] for number in range(len(saved))])
    forget = compute_nll_gradients(loaded, select_units("forget", groups["forget"], spec.max_examples, seed), batcher)[
        0
    ]
    retain = forget
    if spec.score != "gradient":
        retain = compute_nll_gradients(
            loaded, select_units("retain", groups["retain"], spec.max_examples, seed), batcher
        )[0]
    scores = [
        _score(spec, parameter.detach(), of_forget, of_retain)
        for parameter, of_forget, of_retain in zip(get_trainable_parameters(loaded), forget, retain, strict=True)
    ]
    lowest = _lowest_kept(scores, spec.keep_fraction)
    mask = SaliencyMask([score >= lowest for score in scores])
    mask.save(folder)
    return mask


def select_units(group: ExampleGroup, examples: Sequence[Example], max_units: int, seed: int) -> list[BatchUnit]:
    """Return a unit for each example of a set; of a larger set `most`, drawn by the seed, in the set's order."""
    chosen: Sequence[int] = range(len(examples))
    if len(examples) > max_units:
        chosen = sorted(np.random.default_rng(seed).permutation(len(examples))[:max_units].tolist())
    return [(BatchItem(group, index, examples[index]),) for index in chosen]


def _score(spec: Saliency, weight: torch.Tensor, forget: torch.Tensor, retain: torch.Tensor) -> torch.Tensor:
    if spec.score == "relative":
        return forget.abs() / (retain.abs() + _TINY)
    if spec.score == "wagle":
        return (weight * forget - retain * forget / spec.gamma).abs()
    return forget.abs()


def _lowest_kept(scores: Sequence[torch.Tensor], share: float) -> float:
    """Return the score that `share` of all weights reach, never zero: a weight without any does not matter.

    Bisection over the 31 bits of a float32, which are ordered as the numbers are: no copy of all scores is needed.
    """
    wanted = share * sum(score.numel() for score in scores)
    bits = [score.float().contiguous().view(torch.int32) for score in scores]
    low, high = 1, int(torch.tensor(float("inf")).view(torch.int32))  # low is reached by enough, or is the smallest
    while high - low > 1:
        middle = (low + high) // 2
        if sum(int((tensor_bits >= middle).sum()) for tensor_bits in bits) >= wanted:
            low = middle
        else:
            high = middle
    return float(torch.tensor(low, dtype=torch.int32).view(torch.float32))

"""Base scores: the base model's numbers for the training examples, computed once before training.

So training needs neither a second model in memory nor a second forward pass per step. NPO reads one number per forget
answer. KL reads a distribution per retain position; P x V numbers would be gigabytes, so the inputs of the vocabulary
projection are stored (P x D, in the host's memory) with one frozen copy of the projection on the device, both in the
compute type, as the model itself projects. RMU's retain term reads the hidden states of one layer, stored likewise.

Shapes: B sequences, P supervised positions, D hidden size, V vocabulary size.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.errors import BadSpec
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.formatting import format_bytes
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import Scores, score
from soul_core.objectives.terms import BaseScoreKind, ExampleGroup, GroupBaseScores
from soul_core.training.checkpoint import save_tensors
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher

_FILE = "base_scores.safetensors"

#: Maximum memory of hidden states per group: 2 million positions of a model of width 2,048 in bfloat16.
MAX_HIDDEN_STATE_BYTES = 8 << 30

#: Kinds of which P x D numbers per sequence are stored.
_HIDDEN_KINDS: tuple[BaseScoreKind, ...] = ("logits", "hidden")


@dataclass(frozen=True, slots=True)
class BaseScoreRequest:
    """What is wanted of one group: all its examples, the indices training will use, and which numbers of them."""

    examples: Sequence[Example]
    indices: Sequence[int]
    kinds: Collection[BaseScoreKind]


@dataclass(frozen=True, slots=True)
class VocabularyProjection:
    """A frozen copy of the model's vocabulary projection, and the changes that the architecture makes to its output."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    softcap: float | None
    scale: float

    @classmethod
    def from_model(cls, loaded: LoadedModel) -> "VocabularyProjection":
        """Copy the model's projection in the compute type."""
        head, config, dtype = loaded.model.get_output_embeddings(), loaded.model.config, loaded.compute_dtype
        bias = getattr(head, "bias", None)
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        return cls(
            weight_VD=head.weight.detach().to(dtype, copy=True),
            bias_V=None if bias is None else bias.detach().to(dtype, copy=True),
            softcap=getattr(config, "final_logit_softcapping", None),
            scale=float(scale),
        )

    def __call__(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Return the base model's logits, (P, V)."""
        hidden_PD = hidden_PD.to(self.weight_VD.device)
        logits_PV = torch.nn.functional.linear(hidden_PD, self.weight_VD, self.bias_V).float() * self.scale
        return logits_PV if self.softcap is None else self.softcap * torch.tanh(logits_PV / self.softcap)


class BaseScores:
    """The base model's numbers for the examples that training uses, by group, kind and index."""

    def __init__(self, device: torch.device) -> None:
        # sequence_logp: a scalar, on the device; logits (stored as inputs of the projection) and hidden: (P, D), on
        # the host, in the compute type
        self.tensors: dict[tuple[ExampleGroup, BaseScoreKind], dict[int, torch.Tensor]] = {}
        self.projection: VocabularyProjection | None = None
        self._device = device

    def get(self, group: ExampleGroup, indices: Sequence[int]) -> GroupBaseScores:
        """Return all scores that are stored for some sequences of a group, in the order of `indices`."""

        def select(kind: BaseScoreKind) -> list[torch.Tensor] | None:
            by_index = self.tensors.get((group, kind))
            return None if by_index is None else [by_index[index] for index in indices]

        logp, head_inputs, hidden = select("sequence_logp"), select("logits"), select("hidden")
        logits_PV = None
        if head_inputs is not None:
            assert self.projection is not None
            logits_PV = self.projection(torch.cat(head_inputs))
        return GroupBaseScores(
            sequence_logp_B=None if logp is None else torch.stack(logp),
            logits_PV=logits_PV,
            hidden_PD=None if hidden is None else torch.cat(hidden).to(self._device).float(),
        )

    def mean_nll(self, group: ExampleGroup, indices: Sequence[int], num_tokens: int) -> float:
        """Return the base model's mean NLL per token over some sequences, which have `num_tokens` tokens in total."""
        by_index = self.tensors[group, "sequence_logp"]
        return -sum(float(by_index[index]) for index in indices) / num_tokens

    def save(self, folder: Path) -> None:
        """Store the numbers for a resumed run. The projection is not stored, because the base model has it."""
        tensors = {
            f"{kind}.{group}.{index}": value
            for (group, kind), by_index in self.tensors.items()
            for index, value in by_index.items()
        }
        save_tensors(folder / _FILE, tensors, "the base scores")

    @classmethod
    def load(cls, folder: Path, loaded: LoadedModel) -> "BaseScores | None":
        """Return the numbers that an earlier attempt stored, or None. The model must still be the base model."""
        if not (folder / _FILE).exists():
            return None
        scores = cls(loaded.device)
        for name, tensor in load_file(folder / _FILE).items():
            kind, group, index = cast("tuple[BaseScoreKind, ExampleGroup, str]", name.split("."))
            by_index = scores.tensors.setdefault((group, kind), {})
            by_index[int(index)] = tensor if kind in _HIDDEN_KINDS else tensor.to(loaded.device)
        if any(kind == "logits" for _, kind in scores.tensors):
            scores.projection = VocabularyProjection.from_model(loaded)
        return scores


@torch.no_grad()
def compute_base_scores(
    loaded: LoadedModel,
    requests: Mapping[ExampleGroup, BaseScoreRequest],
    *,
    batcher: MicroBatcher,
    listener: Listener,
    layer: torch.nn.Module | None = None,
) -> BaseScores:
    """Score the requested examples with the base model, all kinds of a group in one pass.

    Args:
        layer: The layer whose hidden states are stored.

    Raises:
        BadSpec: They would take more than MAX_HIDDEN_STATE_BYTES, or the model's logits cannot be reproduced.
    """
    _check_memory(loaded, requests)
    base_scores = BaseScores(loaded.device)
    if any("logits" in request.kinds for request in requests.values()):
        base_scores.projection = VocabularyProjection.from_model(loaded)
    for group, request in requests.items():
        units: list[BatchUnit] = [(BatchItem(group, index, request.examples[index]),) for index in request.indices]
        stores = {kind: base_scores.tensors.setdefault((group, kind), {}) for kind in request.kinds}

        def work(items: list[BatchItem], stores: _Stores = stores) -> None:
            raise_if_stop_requested(listener)
            with loaded.autocast():
                packed = pack([item.example for item in items], loaded.device)
                with_head_input = base_scores.projection is not None
                scores = score(loaded.model, packed, layer=layer, with_head_input=with_head_input)
            _store_scores(stores, items, scores, base_scores.projection, loaded)

        batcher.run(units, work, undo=lambda: None)
    return base_scores


#: Kind -> index of an example -> its numbers.
_Stores = dict[BaseScoreKind, dict[int, torch.Tensor]]


def _store_scores(
    stores: _Stores,
    items: list[BatchItem],
    scores: Scores,
    projection: VocabularyProjection | None,
    loaded: LoadedModel,
) -> None:
    if "sequence_logp" in stores:
        pairs = zip(items, scores.sequence_logp_B, strict=True)
        stores["sequence_logp"].update((item.index, value) for item, value in pairs)
    rows: dict[BaseScoreKind, torch.Tensor] = {}
    if "logits" in stores:
        assert projection is not None
        assert scores.head_input_PD is not None
        rows["logits"] = scores.head_input_PD.to(loaded.compute_dtype)
        _check_projection(projection(rows["logits"]), scores.logits_PV, loaded.model)
    if "hidden" in stores:
        assert scores.hidden_PD is not None
        rows["hidden"] = scores.hidden_PD.to(loaded.compute_dtype)
    for kind, rows_PD in rows.items():
        for place, item in enumerate(items):
            stores[kind][item.index] = rows_PD[scores.sequence_P == place].cpu()


def _check_memory(loaded: LoadedModel, requests: Mapping[ExampleGroup, BaseScoreRequest]) -> None:
    position_bytes = loaded.model.get_output_embeddings().weight.shape[1] * loaded.compute_dtype.itemsize
    for group, request in requests.items():
        examples = [request.examples[index] for index in request.indices]
        num_positions = sum(len(example.token_ids) - example.num_prompt_tokens for example in examples)
        num_bytes = num_positions * position_bytes * len([kind for kind in request.kinds if kind in _HIDDEN_KINDS])
        if num_bytes > MAX_HIDDEN_STATE_BYTES:
            place, alternative = ("retain.kind", "'nll'") if group == "retain" else ("forget.kind", "'npo'")
            raise BadSpec(
                f"{place} would store {format_bytes(num_bytes)} of the base model's hidden states for {len(examples)} "
                f"{group} rows; the limit is {format_bytes(MAX_HIDDEN_STATE_BYTES)}: use fewer {group} rows, or "
                f"{alternative}"
            )


def _check_projection(projected_PV: torch.Tensor, logits_PV: torch.Tensor, model: PreTrainedModel) -> None:
    """Raise BadSpec unless the projection gives the model's own logits."""
    tolerance = 0.02 * float(logits_PV.abs().amax().clamp(min=1))  # bfloat16 rounds; a missing scale differs far more
    if not float((projected_PV - logits_PV).abs().amax()) <= tolerance:
        raise BadSpec(
            f"retain.kind 'kl' and forget.kind 'undial' cannot reproduce the logits of {type(model).__name__}; use "
            "'nll' and 'npo'"
        )

"""The base model's numbers, taken once before training: no second model in memory, no second forward a step.

NPO needs one number a forget answer. KL needs a distribution a retain position: P x V of them would be gigabytes, so
the hidden states in front of the vocabulary projection are stored (P x D, in the host's memory) with one frozen copy of
the projection on the device, both in the compute type: as the model itself projects. RMU's retain term needs the
hidden states of one layer, stored in the same way.
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

_FILE = "reference.safetensors"

#: Most memory for stored hidden states: 2 million positions of a model 2,048 wide in bfloat16.
MAX_HIDDEN_STATE_BYTES = 8 << 30

#: Needs that keep P x D numbers per sequence.
_WIDE: tuple[BaseScoreKind, ...] = ("logits", "hidden")


@dataclass(frozen=True, slots=True)
class BaseScoreRequest:
    """What is wanted of one group: all its examples, the indices training will use, and which numbers of them."""

    examples: Sequence[Example]
    indices: Sequence[int]
    kinds: Collection[BaseScoreKind]


@dataclass(frozen=True, slots=True)
class VocabularyProjection:
    """A frozen copy of the model's last layer, and what the architecture does to its output."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    softcap: float | None
    scale: float

    @classmethod
    def from_model(cls, loaded: LoadedModel) -> "VocabularyProjection":
        """Copy the base model's projection in the compute type."""
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
    """What the base model said of the examples that training will use; looked up by group, need and index."""

    def __init__(self, device: torch.device) -> None:
        # sequence_logp: a scalar, on the device; logits (as what goes into the projection) and hidden: (P, D), on the
        # host, in the compute type
        self.tensors: dict[tuple[ExampleGroup, BaseScoreKind], dict[int, torch.Tensor]] = {}
        self.projection: VocabularyProjection | None = None
        self._device = device

    def get(self, group: ExampleGroup, indices: Sequence[int]) -> GroupBaseScores:
        """Return the reference of some sequences of a group, in their order: what was computed of it."""

        def stack(need: BaseScoreKind) -> list[torch.Tensor] | None:
            by_index = self.tensors.get((group, need))
            return None if by_index is None else [by_index[index] for index in indices]

        logp, last, hidden = stack("sequence_logp"), stack("logits"), stack("hidden")
        logits_PV = None
        if last is not None:
            assert self.projection is not None
            logits_PV = self.projection(torch.cat(last))
        return GroupBaseScores(
            sequence_logp_B=None if logp is None else torch.stack(logp),
            logits_PV=logits_PV,
            hidden_PD=None if hidden is None else torch.cat(hidden).to(self._device).float(),
        )

    def mean_nll(self, group: ExampleGroup, indices: Sequence[int], num_tokens: int) -> float:
        """Return the base model's mean NLL per token over sequences with `num_tokens` tokens together."""
        by_index = self.tensors[group, "sequence_logp"]
        return -sum(float(by_index[index]) for index in indices) / num_tokens

    def save(self, folder: Path) -> None:
        """Keep the numbers for a resumed run. The projection is the base model's own and is not stored."""
        tensors = {
            f"{need}.{group}.{index}": value
            for (group, need), by_index in self.tensors.items()
            for index, value in by_index.items()
        }
        save_tensors(folder / _FILE, tensors, "the base scores")

    @classmethod
    def load(cls, folder: Path, loaded: LoadedModel) -> "BaseScores | None":
        """Return what an earlier attempt stored, if it did. The model must still be the base."""
        if not (folder / _FILE).exists():
            return None
        reference = cls(loaded.device)
        for name, tensor in load_file(folder / _FILE).items():
            need, group, index = cast("tuple[BaseScoreKind, ExampleGroup, str]", name.split("."))
            by_index = reference.tensors.setdefault((group, need), {})
            by_index[int(index)] = tensor if need in _WIDE else tensor.to(loaded.device)
        if any(need == "logits" for _, need in reference.tensors):
            reference.projection = VocabularyProjection.from_model(loaded)
        return reference


@torch.no_grad()
def compute_base_scores(
    loaded: LoadedModel,
    requests: Mapping[ExampleGroup, BaseScoreRequest],
    *,
    batcher: MicroBatcher,
    listener: Listener,
    layer: torch.nn.Module | None = None,
) -> BaseScores:
    """Score what is wanted of each group with the base model, all needs of a group in one pass.

    `layer` is the one whose hidden states are wanted. Raises BadSpec when they would take more than MOST_KEPT_BYTES.
    """
    _check_room(loaded, requests)
    reference = BaseScores(loaded.device)
    if any("logits" in request.kinds for request in requests.values()):
        reference.projection = VocabularyProjection.from_model(loaded)
    for group, request in requests.items():
        tensors_by_index: dict[BaseScoreKind, dict[int, torch.Tensor]] = {
            need: reference.tensors.setdefault((group, need), {}) for need in request.kinds
        }

        def work(
            items: list[BatchItem], tensors_by_index: dict[BaseScoreKind, dict[int, torch.Tensor]] = tensors_by_index
        ) -> None:
            raise_if_stop_requested(listener)
            with loaded.autocast():
                packed = pack([item.example for item in items], loaded.device)
                scores = score(loaded.model, packed, layer=layer, with_head_input=reference.projection is not None)
            if "sequence_logp" in tensors_by_index:
                pairs = zip(items, scores.sequence_logp_B, strict=True)
                tensors_by_index["sequence_logp"].update((item.index, value) for item, value in pairs)
            if "logits" in tensors_by_index:
                assert reference.projection is not None
                assert scores.head_input_PD is not None
                last_PD = scores.head_input_PD.to(loaded.compute_dtype)
                _check_projection(reference.projection(last_PD), scores.logits_PV, loaded.model)
                _keep_rows(tensors_by_index["logits"], items, scores, last_PD)
            if "hidden" in tensors_by_index:
                assert scores.hidden_PD is not None
                _keep_rows(tensors_by_index["hidden"], items, scores, scores.hidden_PD.to(loaded.compute_dtype))

        units: list[BatchUnit] = [(BatchItem(group, index, request.examples[index]),) for index in request.indices]
        batcher.run(units, work, undo=lambda: None)
    return reference


def _keep_rows(
    tensors_by_index: dict[int, torch.Tensor], items: list[BatchItem], scores: Scores, rows_PD: torch.Tensor
) -> None:
    for place, item in enumerate(items):
        tensors_by_index[item.index] = rows_PD[scores.sequence_P == place].cpu()


def _check_room(loaded: LoadedModel, wanted: Mapping[ExampleGroup, BaseScoreRequest]) -> None:
    position_bytes = loaded.model.get_output_embeddings().weight.shape[1] * loaded.compute_dtype.itemsize
    for group, request in wanted.items():
        wide = [need for need in request.kinds if need in _WIDE]
        examples = [request.examples[index] for index in request.indices]
        num_positions = sum(len(example.token_ids) - example.num_prompt_tokens for example in examples)
        needed = num_positions * position_bytes * len(wide)
        if needed > MAX_HIDDEN_STATE_BYTES:
            raise BadSpec(
                f"{_place(group)} would keep {format_bytes(needed)} of the base's hidden states for {len(examples)} "
                f"{group} rows; the limit is {format_bytes(MAX_HIDDEN_STATE_BYTES)}: take fewer {group} rows, or "
                f"{_alternative(group)}"
            )


def _place(group: ExampleGroup) -> str:
    return "retain.kind" if group == "retain" else "forget.kind"


def _alternative(group: ExampleGroup) -> str:
    return "'nll'" if group == "retain" else "'npo'"


def _check_projection(ours_PV: torch.Tensor, logits_PV: torch.Tensor, model: PreTrainedModel) -> None:
    tolerance = 0.02 * float(logits_PV.abs().amax().clamp(min=1))  # bfloat16 rounds; a forgotten scale is far off
    if not float((ours_PV - logits_PV).abs().amax()) <= tolerance:
        raise BadSpec(
            f"retain.kind 'kl' and forget.kind 'undial' do not know how {type(model).__name__} makes its logits; use "
            "'nll' and 'npo'"
        )

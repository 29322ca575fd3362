"""The base model's numbers, taken once before training: no second model in memory, no second forward a step.

NPO needs one number a forget answer. KL needs a distribution a retain position: P x V of them would be gigabytes, so
the hidden states in front of the vocabulary projection are kept (P x D, in the host's memory) with one frozen copy of
the projection on the device, both in the compute type: as the model itself projects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from soul_core.accumulation import Item, MicroBatcher, Unit
from soul_core.data import Example, pack
from soul_core.durable import disk_errors, sync
from soul_core.errors import BadSpec
from soul_core.listener import Listener, stop_if_asked
from soul_core.models import Loaded
from soul_core.objectives.terms import Group, Reference
from soul_core.scoring import Scores, score

_FILE = "reference.safetensors"

#: Most memory for kept hidden states: 2 million positions of a model 2,048 wide in bfloat16.
MOST_KEPT_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Projection:
    """A frozen copy of the model's last layer, and what the architecture does to its output."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    softcap: float | None
    scale: float

    @classmethod
    def of(cls, loaded: Loaded) -> "Projection":
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


class ReferenceScores:
    """What the base model said of the examples that training will use; looked up by their index in the set."""

    def __init__(self) -> None:
        self.sequence_logp: dict[int, torch.Tensor] = {}  # forget index -> scalar
        self.hidden: dict[int, torch.Tensor] = {}  # retain index -> (P, D), on the host
        self.projection: Projection | None = None

    def of(self, kind: str | None, indices: Sequence[int]) -> Reference:
        """Return the reference of some sequences, in their order."""
        if kind == "sequence_logp":
            return Reference(sequence_logp_B=torch.stack([self.sequence_logp[index] for index in indices]))
        if kind == "logits":
            assert self.projection is not None
            return Reference(logits_PV=self.projection(torch.cat([self.hidden[index] for index in indices])))
        return Reference()

    def save(self, folder: Path) -> None:
        """Keep the numbers for a resumed run. The projection is the base model's own and is not kept."""
        tensors = {f"sequence_logp.{index}": value.cpu() for index, value in self.sequence_logp.items()}
        tensors |= {f"hidden.{index}": value.cpu().contiguous() for index, value in self.hidden.items()}
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f"{_FILE}.partial"
        with disk_errors("the reference scores"):
            save_file(tensors, beside)
            sync(beside)
            beside.replace(folder / _FILE)

    @classmethod
    def load(cls, folder: Path, loaded: Loaded) -> "ReferenceScores | None":
        """Return what an earlier attempt kept, if it did. The model must still be the base."""
        if not (folder / _FILE).exists():
            return None
        kept = cls()
        for name, tensor in load_file(folder / _FILE).items():
            kind, index = name.rsplit(".", 1)
            getattr(kept, kind)[int(index)] = tensor if kind == "hidden" else tensor.to(loaded.device)
        if kept.hidden:
            kept.projection = Projection.of(loaded)
        return kept


@torch.no_grad()
def take_reference(
    loaded: Loaded,
    wanted: Mapping[str, tuple[Sequence[Example], Sequence[int]]],
    *,
    batcher: MicroBatcher,
    listener: Listener,
) -> ReferenceScores:
    """Score the examples `wanted` (kind of reference -> all examples, the indices training will use) with the base.

    Raises BadSpec when the hidden states would take more than MOST_KEPT_BYTES.
    """
    reference = ReferenceScores()
    for kind, (examples, indices) in wanted.items():
        if kind == "logits":
            _check_room(loaded, [examples[index] for index in indices])
            reference.projection = Projection.of(loaded)

        def work(items: list[Item], kind: str = kind) -> None:
            stop_if_asked(listener)
            hidden_PD, scores = _score_with_hidden(loaded, [item.example for item in items])
            if kind == "sequence_logp":
                pairs = zip(items, scores.sequence_logp_B, strict=True)
                reference.sequence_logp.update((item.index, value) for item, value in pairs)
                return
            assert reference.projection is not None
            _check_projection(reference.projection(hidden_PD), scores.logits_PV, loaded.model)
            for place, item in enumerate(items):
                reference.hidden[item.index] = hidden_PD[scores.sequence_P == place].cpu()

        group: Group = "retain" if kind == "logits" else "forget"
        units: list[Unit] = [(Item(group, index, examples[index]),) for index in indices]
        batcher.over(units, work, undo=lambda: None)
    return reference


def _check_room(loaded: Loaded, examples: Sequence[Example]) -> None:
    num_positions = sum(len(example.token_ids) - example.num_prompt for example in examples)
    needed = num_positions * loaded.model.get_output_embeddings().weight.shape[1] * loaded.compute_dtype.itemsize
    if needed > MOST_KEPT_BYTES:
        raise BadSpec(
            f"retain.kind: 'kl' would keep {needed / 2**30:.1f} GiB of the base's hidden states for {len(examples)} "
            f"retain rows; the limit is {MOST_KEPT_BYTES / 2**30:.0f} GiB: take fewer retain rows, or 'nll'"
        )


def _score_with_hidden(loaded: Loaded, examples: Sequence[Example]) -> tuple[torch.Tensor, Scores]:
    """Score, and catch what goes into the vocabulary projection: (P, D)."""
    caught: list[torch.Tensor] = []

    def catch(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        caught.append(inputs[0].detach())

    hook = loaded.model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        with loaded.autocast():
            scores = score(loaded.model, pack(examples, loaded.device))
    finally:
        hook.remove()
    return caught[0][0].to(loaded.compute_dtype), scores


def _check_projection(ours_PV: torch.Tensor, logits_PV: torch.Tensor, model: PreTrainedModel) -> None:
    tolerance = 0.02 * float(logits_PV.abs().amax().clamp(min=1))  # bfloat16 rounds; a forgotten scale is far off
    if not float((ours_PV - logits_PV).abs().amax()) <= tolerance:
        raise BadSpec(f"retain.kind: 'kl' does not know how {type(model).__name__} makes its logits; use 'nll'")

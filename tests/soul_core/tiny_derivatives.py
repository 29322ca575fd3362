"""A Llama so small that its derivatives can be written out: 24 tokens, 2 layers of 16, few weights that may move."""

from typing import cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from soul_core.encoding import Example
from soul_core.examples import pack
from soul_core.listener import Quiet
from soul_core.models.loading import Loaded
from soul_core.models.packed_attention import PACKED
from soul_core.models.scoring import score
from soul_core.report import ModelFacts
from soul_core.training.accumulation import Item, MicroBatcher, Unit
from soul_core.training.second_order import twice_differentiable
from soul_core.training.step import trainable

#: The last norm and one projection in front of the attention: 16 + 8 x 16 weights.
MOVABLE = ("model.norm.weight", "model.layers.1.self_attn.k_proj.weight")


def small_llama(*, movable: tuple[str, ...] = MOVABLE) -> Loaded:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        attn_implementation=PACKED,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)  # so that attention and probabilities are not flat
            parameter.requires_grad_(name in movable)
    facts = ModelFacts(
        source="small", digest="0" * 64, architecture="LlamaForCausalLM", num_parameters=1, context_tokens=32,
        chat_template=False,
    )  # fmt: skip
    return Loaded(model, cast("PreTrainedTokenizerBase", None), facts, torch.device("cpu"), torch.float32)


def units() -> list[Unit]:
    """Two examples, seven supervised positions."""
    examples = [Example((3, 7, 1, 9, 20, 5, 2), 3, 1), Example((4, 7, 11, 23, 2), 2, 2)]
    return [(Item("retain", index, example),) for index, example in enumerate(examples)]


def batcher(max_tokens: int = 2048) -> MicroBatcher:
    return MicroBatcher(max_tokens, Quiet())


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflat(loaded: Loaded, vector: torch.Tensor) -> list[torch.Tensor]:
    parts = vector.split([parameter.numel() for parameter in trainable(loaded)])
    return [part.view_as(parameter) for part, parameter in zip(parts, trainable(loaded), strict=True)]


def jacobian_PVW(loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivatives of every logit by every movable weight, one backward pass each, and the logits."""
    with twice_differentiable():
        logits_PV = score(loaded.model, pack([unit[0].example for unit in units()])).logits_PV
    rows = [
        flat(list(torch.autograd.grad(logit, trainable(loaded), retain_graph=True))) for logit in logits_PV.flatten()
    ]
    return torch.stack(rows).view(*logits_PV.shape, -1), logits_PV.detach()

"""Answers, many at a time: batches of like length, padded on the left, finished rows dropped on the way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from soul_core.errors import OutOfMemory
from soul_core.models.decoding import RowCache, compute_next_logits
from soul_core.models.loading import LoadedModel

_MOST_ROWS = 64
_CPU_CACHE_BYTES = 1 << 30
#: Share of the free GPU memory that the key-value cache may take.
_GPU_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draw tokens instead of taking the first choice. A row's draws depend on the seed and its own prompt alone."""

    seed: int
    temperature: float
    suppressed_tokens: Mapping[tuple[int, ...], Sequence[int]] = field(default_factory=dict)
    """Prompt -> tokens that its answer must not hold."""

    def compute_logit_bias(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> torch.Tensor:
        """Return what is added to the logits of each prompt's answer, (B, V): minus infinity for what is held back."""
        barred_BV = torch.zeros(len(prompts), num_tokens)
        for row, prompt in enumerate(prompts):
            barred_BV[row, list(self.suppressed_tokens.get(tuple(prompt), ()))] = -torch.inf
        return barred_BV

    def draw_uniforms(self, prompt: Sequence[int], num_tokens: int) -> list[float]:
        """Return one number in [0, 1) for each token of an answer."""
        return np.random.default_rng([self.seed, *prompt]).random(num_tokens).tolist()

    def sample_tokens(self, logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
        """Invert each row's distribution at its number."""
        cumulative_BV = (logits_BV.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        at_B1 = (uniform_B.to(cumulative_BV) * cumulative_BV[:, -1])[:, None]
        return torch.searchsorted(cumulative_BV, at_B1, right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def get_end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return every token that ends an answer: the one training teaches, and those the model came with."""
    config = getattr(loaded.model, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    found = {*loaded.encoder.end_ids, loaded.tokenizer.eos_token_id}
    return frozenset(int(i) for i in found | set(own if isinstance(own, list) else [own]) if i is not None)


@torch.no_grad()  # not inference_mode: buffers a model makes on the way must serve training too
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: frozenset[int],
    max_new_tokens: int,
    context_tokens: int,
    on_progress: Callable[[int], None] = lambda _: None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the greedy (or a sampled) continuation of each prompt, without the token that ended it.

    `tick(n)` is called after every token (n = 0) and every batch (n = its rows); it may raise to stop.
    Greedy whatever the model's generation config asks for: two models are compared by their first choices.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    limit = _rows_at_once(model, max(map(len, prompts), default=1) + max_new_tokens)
    for batch in _by_length(prompts, limit):
        width = len(prompts[batch[0]])
        room = min(max_new_tokens, context_tokens - width)
        if room > 0:
            for index, answer in _answer(model, [prompts[i] for i in batch], end_ids, room, on_progress, sampling):
                answers[batch[index]] = answer
        on_progress(len(batch))
    return answers


def _by_length(prompts: Sequence[Sequence[int]], limit: int) -> Iterator[list[int]]:
    """Longest first: what does not fit into memory shows at once."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), limit):
        yield order[start : start + limit]


def _answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    end_ids: frozenset[int],
    room: int,
    tick: Callable[[int], None],
    sampling: Sampling | None,
) -> list[tuple[int, list[int]]]:
    """Answer one batch; on lack of GPU memory in two halves."""
    try:
        return list(enumerate(_decode(model, prompts, end_ids, room, tick, sampling)))
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise OutOfMemory(
                "not enough memory to generate a single answer; lower evaluation.max_new_tokens"
            ) from None
    torch.cuda.empty_cache()
    half = len(prompts) // 2
    first = _answer(model, prompts[:half], end_ids, room, tick, sampling)
    second = _answer(model, prompts[half:], end_ids, room, tick, sampling)
    return first + [(half + index, answer) for index, answer in second]


def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    end_ids: frozenset[int],
    room: int,
    tick: Callable[[int], None],
    sampling: Sampling | None,
) -> list[list[int]]:
    """Decode until every row has ended or `room` tokens are written. B rows still open, W the width so far."""
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = list(range(len(prompts)))
    input_BL, mask_BW = _pad_left(prompts, model.device)
    position_BL = (mask_BW.cumsum(1) - 1).clamp(min=0)
    cache = RowCache.for_model(model)
    uniform_BL = torch.tensor([sampling.draw_uniforms(prompt, room) for prompt in prompts] if sampling else [])
    barred_BV: torch.Tensor | None = None
    for step in range(room):
        logits_BV = compute_next_logits(model, input_BL, mask_BW, position_BL, cache)
        if sampling and sampling.suppressed_tokens:
            if barred_BV is None:
                barred_BV = sampling.compute_logit_bias(prompts, logits_BV.shape[-1]).to(logits_BV)
            logits_BV = logits_BV + barred_BV[open_rows]
        chosen_B = sampling.sample_tokens(logits_BV, uniform_BL[open_rows, step]) if sampling else logits_BV.argmax(-1)
        chosen = chosen_B.tolist()
        stay = [i for i, token in enumerate(chosen) if token not in end_ids]
        for i in stay:
            answers[open_rows[i]].append(chosen[i])
        tick(0)
        if not stay:
            break
        keep_B = torch.tensor(stay, device=mask_BW.device)
        if len(stay) < len(open_rows):
            cache.select_rows(keep_B)
            mask_BW, position_BL = mask_BW[keep_B], position_BL[keep_B]
            open_rows = [open_rows[i] for i in stay]
        input_BL = torch.tensor([[chosen[i]] for i in stay], device=mask_BW.device)
        mask_BW = torch.cat([mask_BW, mask_BW.new_ones(len(stay), 1)], dim=1)
        position_BL = position_BL[:, -1:] + 1
    return answers


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask. Which id fills the padding is of no matter: the mask hides it."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _rows_at_once(model: PreTrainedModel, tokens: int) -> int:
    """Return how many rows of `tokens` tokens the key-value cache has room for."""
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", None) or 1  # a recurrent state is no wider than keys would be
    heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * head_size * 4
    budget = float(_CPU_CACHE_BYTES)
    if model.device.type == "cuda":
        budget = _GPU_SHARE * torch.cuda.mem_get_info(model.device)[0]
    return int(max(1, min(_MOST_ROWS, budget // (bytes_per_token * tokens))))

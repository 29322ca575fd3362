"""Generates answers in batches of similar length, padded on the left; finished rows are removed from the batch.

Shapes: B rows that are not finished, L new tokens of each, W tokens of the longest row so far, V vocabulary size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from soul_core.errors import OutOfMemory
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.models.decoding import RowCache, compute_next_logits, invert_cumulative
from soul_core.models.loading import LoadedModel

_MAX_ROWS = 64
_CPU_CACHE_BYTES = 1 << 30
#: A prompt and the uniform numbers with which its answer is sampled; no numbers: the answer is greedy.
_SampledRow = tuple[Sequence[int], Sequence[float]]
#: Fraction of the free GPU memory that the key-value cache may take.
_GPU_FRACTION = 0.4


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of sampled instead of greedy answers.

    A row's draws depend only on the seed, its own prompt, and how many equal prompts precede it.
    """

    seed: int
    temperature: float
    suppressed_tokens: Mapping[tuple[int, ...], Sequence[int]] = field(default_factory=dict)
    """Prompt -> tokens that its answer must not contain."""

    def compute_logit_bias(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> torch.Tensor:
        """Return a term for the logits of each prompt's answer, (B, V): minus infinity for suppressed tokens."""
        bias_BV = torch.zeros(len(prompts), num_tokens)
        for row, prompt in enumerate(prompts):
            bias_BV[row, list(self.suppressed_tokens.get(tuple(prompt), ()))] = -torch.inf
        return bias_BV

    def draw_uniforms(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[float]]:
        """Return one number in [0, 1) for each token of each prompt's answer; equal prompts get different ones."""
        generators: dict[tuple[int, ...], np.random.Generator] = {}
        for prompt in map(tuple, prompts):
            if prompt not in generators:
                generators[prompt] = np.random.default_rng([self.seed, *prompt])
        return [generators[tuple(prompt)].random(num_tokens).tolist() for prompt in prompts]

    def sample_tokens(self, logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
        """Return the token of each row at which its cumulative distribution exceeds its uniform number."""
        cumulative_BV = (logits_BV.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        return invert_cumulative(cumulative_BV, uniform_B[:, None])[:, 0]


def get_end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return every token that ends an answer: those of the template, of the tokenizer and of the generation config."""
    config = getattr(loaded.model, "generation_config", None)
    of_config = getattr(config, "eos_token_id", None)
    end_ids = {*loaded.encoder.end_ids, loaded.tokenizer.eos_token_id}
    end_ids |= set(of_config if isinstance(of_config, list) else [of_config])
    return frozenset(int(token_id) for token_id in end_ids if token_id is not None)


@torch.no_grad()  # not inference_mode: training uses buffers that the model creates here
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
    """Return the continuation of each prompt, without the token that ended it.

    Greedy without `sampling`, whatever the model's generation config says: models are compared by their most probable
    tokens.

    Args:
        max_new_tokens: Of an answer; fewer where the context ends.
        on_progress: Called with 0 after every token, and with the number of rows after every batch; may raise to stop.

    Raises:
        OutOfMemory: Even for a single answer.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    uniforms = sampling.draw_uniforms(prompts, max_new_tokens) if sampling else [[] for _ in prompts]
    max_rows = compute_max_rows(model, max(map(len, prompts), default=1) + max_new_tokens)
    for batch in _group_by_length(prompts, max_rows):
        width = len(prompts[batch[0]])
        max_tokens = min(max_new_tokens, context_tokens - width)
        if max_tokens > 0:
            rows = [(prompts[index], uniforms[index]) for index in batch]
            for index, answer in _answer(model, rows, end_ids, max_tokens, on_progress, sampling):
                answers[batch[index]] = answer
        on_progress(len(batch))
    return answers


def generate_until_stopped(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    listener: Listener,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Generate with the model's own end tokens and context; raise as soon as a stop is requested. See `generate`."""
    return generate(
        loaded.model,
        prompts,
        end_ids=get_end_ids(loaded),
        max_new_tokens=max_new_tokens,
        context_tokens=loaded.facts.context_tokens,
        on_progress=lambda _: raise_if_stop_requested(listener),
        sampling=sampling,
    )


def _group_by_length(prompts: Sequence[Sequence[int]], max_rows: int) -> Iterator[list[int]]:
    """Yield the indices of each batch, longest prompts first, so that a lack of memory shows at once."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), max_rows):
        yield order[start : start + max_rows]


def _answer(
    model: PreTrainedModel,
    rows: Sequence[_SampledRow],
    end_ids: frozenset[int],
    max_tokens: int,
    on_progress: Callable[[int], None],
    sampling: Sampling | None,
) -> list[tuple[int, list[int]]]:
    """Answer one batch, in two halves when GPU memory runs out; return (index in the batch, answer) pairs."""
    try:
        return list(enumerate(_decode(model, rows, end_ids, max_tokens, on_progress, sampling)))
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise OutOfMemory(
                "not enough memory to generate a single answer; lower evaluation.max_new_tokens"
            ) from None
    torch.cuda.empty_cache()
    half = len(rows) // 2
    first = _answer(model, rows[:half], end_ids, max_tokens, on_progress, sampling)
    second = _answer(model, rows[half:], end_ids, max_tokens, on_progress, sampling)
    return first + [(half + index, answer) for index, answer in second]


def _decode(
    model: PreTrainedModel,
    rows: Sequence[_SampledRow],
    end_ids: frozenset[int],
    max_tokens: int,
    on_progress: Callable[[int], None],
    sampling: Sampling | None,
) -> list[list[int]]:
    """Decode until every row has ended or has `max_tokens` tokens."""
    prompts = [prompt for prompt, _ in rows]
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = list(range(len(prompts)))
    input_BL, mask_BW = pad_left(prompts, model.device)
    position_BL = (mask_BW.cumsum(1) - 1).clamp(min=0)
    cache = RowCache.for_model(model)
    uniform_BL = torch.tensor([uniforms for _, uniforms in rows])
    bias_BV: torch.Tensor | None = None
    for step in range(max_tokens):
        logits_BV = compute_next_logits(model, input_BL, mask_BW, position_BL, cache)
        if sampling and sampling.suppressed_tokens:
            if bias_BV is None:
                bias_BV = sampling.compute_logit_bias(prompts, logits_BV.shape[-1]).to(logits_BV)
            logits_BV = logits_BV + bias_BV[open_rows]
        chosen_B = sampling.sample_tokens(logits_BV, uniform_BL[open_rows, step]) if sampling else logits_BV.argmax(-1)
        chosen = chosen_B.tolist()
        stay = [i for i, token in enumerate(chosen) if token not in end_ids]
        for i in stay:
            answers[open_rows[i]].append(chosen[i])
        on_progress(0)
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


def pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, (B, W). The id of the padding is irrelevant, because the mask hides it."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def compute_max_rows(model: PreTrainedModel, num_tokens: int) -> int:
    """Return the number of rows of `num_tokens` tokens that fit into the memory for the key-value cache."""
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", None) or 1  # a recurrent state is not wider than keys
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    bytes_per_token = 2 * config.num_hidden_layers * num_kv_heads * head_size * 4
    budget = float(_CPU_CACHE_BYTES)
    if model.device.type == "cuda":
        budget = _GPU_FRACTION * torch.cuda.mem_get_info(model.device)[0]
    return int(max(1, min(_MAX_ROWS, budget // (bytes_per_token * num_tokens))))

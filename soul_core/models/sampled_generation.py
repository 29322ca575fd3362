"""Generates several sampled answers to each prompt, at one or more temperatures.

A prompt is computed once for all of its samples, and so is every beginning that samples have in common: a row of the
batch is a *path*, and it is split only where its samples draw different tokens. A model that is certain costs as much
as greedy decoding, an uncertain one as much as one row per sample.

Shapes: P paths, L new tokens of each, W tokens of the longest path so far, M samples of a path, V vocabulary size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from soul_core.errors import OutOfMemory
from soul_core.models.decoding import RowCache, compute_next_logits, invert_cumulative
from soul_core.models.generation import compute_max_rows, pad_left


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt whose answers are sampled."""

    row: int
    """Number of the row that asks; with the seed, the sample's number and the temperature it determines the draws."""
    prompt: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How answers are sampled: `num_samples` at each temperature."""

    temperatures: tuple[float, ...]
    num_samples: int
    seed: int


@dataclass(slots=True)
class _Sample:
    """One sampled answer: its draws, one number in [0, 1) for each token, and its tokens so far."""

    prompt: tuple[int, ...]
    temperature: float
    uniforms: Sequence[float]
    tokens: list[int] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.tokens) >= len(self.uniforms)


@torch.no_grad()  # not inference_mode: training uses buffers that the model creates here
def generate_samples(
    model: PreTrainedModel,
    requests: Sequence[SampleRequest],
    settings: SampleSettings,
    *,
    end_ids: frozenset[int],
    context_tokens: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[dict[float, list[list[int]]]]:
    """Return, for each request, temperature -> the tokens of its samples, without the token that ended each.

    A sample's draws depend on the seed, the row, the sample's number and the temperature: batches of another size or
    order give the same samples, as far as the model's arithmetic does not depend on the batch. Nothing is cut from the
    distribution (no top-k, no top-p), whatever the model's generation config says.

    Args:
        on_progress: Called with 0 after every token, and with the number of samples after every batch; may raise to
            stop.

    Raises:
        OutOfMemory: Even for a single sample.
    """
    by_request = [
        {
            temperature: [
                _make_sample(request, temperature, number, settings.seed, context_tokens)
                for number in range(settings.num_samples)
            ]
            for temperature in settings.temperatures
        }
        for request in requests
    ]
    samples = [sample for of_request in by_request for group in of_request.values() for sample in group]
    samples.sort(key=lambda sample: -len(sample.prompt))  # stable: samples of one prompt stay together
    num_tokens = max((len(request.prompt) + request.max_tokens for request in requests), default=1)
    max_samples = compute_max_rows(model, num_tokens)
    for start in range(0, len(samples), max_samples):
        batch = samples[start : start + max_samples]
        _decode_in_parts(model, [sample for sample in batch if not sample.is_complete], end_ids, on_progress)
        on_progress(len(batch))
    return [{t: [sample.tokens for sample in group] for t, group in groups.items()} for groups in by_request]


def _make_sample(request: SampleRequest, temperature: float, number: int, seed: int, context_tokens: int) -> _Sample:
    max_tokens = max(0, min(request.max_tokens, context_tokens - len(request.prompt)))
    rng = np.random.default_rng([seed, request.row, number, round(temperature * 1e6)])
    return _Sample(request.prompt, temperature, rng.random(max_tokens).tolist())


def _decode_in_parts(
    model: PreTrainedModel, samples: Sequence[_Sample], end_ids: frozenset[int], on_progress: Callable[[int], None]
) -> None:
    """Decode one batch, in two halves when GPU memory runs out."""
    if not samples:
        return
    try:
        _decode(model, samples, end_ids, on_progress)
    except torch.OutOfMemoryError:
        if len(samples) == 1:
            raise OutOfMemory("not enough memory to sample a single answer; lower evaluation.leak_new_tokens") from None
    else:
        return
    torch.cuda.empty_cache()
    for sample in samples:
        sample.tokens.clear()
    half = len(samples) // 2
    _decode_in_parts(model, samples[:half], end_ids, on_progress)
    _decode_in_parts(model, samples[half:], end_ids, on_progress)


def _decode(
    model: PreTrainedModel, samples: Sequence[_Sample], end_ids: frozenset[int], on_progress: Callable[[int], None]
) -> None:
    """Decode until every sample has ended or has as many tokens as draws."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    places = {prompt: path for path, prompt in enumerate(prompts)}
    waiting = [(sample, places[sample.prompt]) for sample in samples]
    input_PL, mask_PW = pad_left(prompts, model.device)
    position_PL = (mask_PW.cumsum(1) - 1).clamp(min=0)
    cache = RowCache.for_model(model)
    while waiting:
        logits_PV = compute_next_logits(model, input_PL, mask_PW, position_PL, cache)
        extended: dict[tuple[int, int], list[_Sample]] = {}
        for sample, path, token in _draw(logits_PV, waiting):
            if token not in end_ids:
                sample.tokens.append(token)
                if not sample.is_complete:
                    extended.setdefault((path, token), []).append(sample)
        on_progress(0)
        waiting = [(sample, path) for path, group in enumerate(extended.values()) for sample in group]
        parents = [path for path, _ in extended]
        if not parents:
            return
        if parents != list(range(len(mask_PW))):
            parent_P = torch.tensor(parents, device=mask_PW.device)
            cache.select_rows(parent_P)
            mask_PW, position_PL = mask_PW[parent_P], position_PL[parent_P]
        input_PL = torch.tensor([[token] for _, token in extended], device=mask_PW.device)
        mask_PW = torch.cat([mask_PW, mask_PW.new_ones(len(parents), 1)], dim=1)
        position_PL = position_PL[:, -1:] + 1


def _draw(logits_PV: torch.Tensor, waiting: Sequence[tuple[_Sample, int]]) -> Iterable[tuple[_Sample, int, int]]:
    """Yield each sample with its path and its next token, in an order that depends on the samples alone.

    The token is that at which the cumulative distribution of the path exceeds the sample's number.
    """
    for temperature in sorted({sample.temperature for sample, _ in waiting}, reverse=True):
        by_path: dict[int, list[_Sample]] = {}
        for sample, path in waiting:
            if sample.temperature == temperature:
                by_path.setdefault(path, []).append(sample)
        logits_QV = logits_PV[list(by_path)]
        width = max(map(len, by_path.values()))
        uniform_QM = torch.tensor(
            [[s.uniforms[len(s.tokens)] for s in group] + [0.0] * (width - len(group)) for group in by_path.values()],
            dtype=torch.float64,
        )
        token_QM = sample_tokens(logits_QV, uniform_QM, temperature).tolist()
        for (path, group), tokens in zip(by_path.items(), token_QM, strict=True):
            yield from ((sample, path, token) for sample, token in zip(group, tokens, strict=False))


def sample_tokens(logits_PV: torch.Tensor, uniform_PM: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the tokens at which each path's cumulative distribution exceeds its M numbers in [0, 1), (P, M)."""
    p_PV = (logits_PV.float() / temperature).softmax(dim=-1)
    cumulative_PV = p_PV.cumsum(dim=-1, dtype=torch.float64)
    return invert_cumulative(cumulative_PV, uniform_PM)

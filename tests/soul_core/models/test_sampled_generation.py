"""Samples share what they have in common, and are drawn as one at a time would be."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from soul_core.errors import OutOfMemory, RunInterruptedError
from soul_core.models.sampled_generation import SampleRequest, SampleSettings, generate_samples, sample_tokens
from tests.soul_core.models.test_generation import CONTEXT, GPT2, LLAMA, PROMPTS, build

END_IDS = frozenset({3, 40, 41, 42})
SETTINGS = SampleSettings(temperatures=(1.0, 0.5), num_samples=6, seed=5)
REQUESTS = [
    SampleRequest(row, tuple(prompt), max_tokens)
    for row, (prompt, max_tokens) in enumerate(zip(PROMPTS, (12, 3, 9, 12, 5, 7), strict=True), start=1)
]
OPTIONS: dict[str, Any] = {"end_ids": END_IDS, "context_tokens": CONTEXT}


@pytest.fixture(scope="module")
def llama() -> Any:
    model = build(LlamaForCausalLM, LLAMA)
    for parameter in model.parameters():
        parameter.data.div_(1.5)  # less certain than for greedy answers, so that samples differ
    return model


@torch.no_grad()
def sample_one_at_a_time(model: Any, request: SampleRequest, number: int, temperature: float) -> list[int]:
    """Decode with no padding, no cache and no batch: the plain definition."""
    uniforms = np.random.default_rng([SETTINGS.seed, request.row, number, round(temperature * 1e6)])
    tokens = list(request.prompt)
    for uniform in uniforms.random(request.max_tokens):
        logits_V = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        cumulative_V = (logits_V / temperature).softmax(-1).double().cumsum(-1)
        token = int((cumulative_V > uniform * cumulative_V[-1]).nonzero()[0])
        if token in END_IDS:
            break
        tokens.append(token)
    return tokens[len(request.prompt) :]


@pytest.mark.parametrize(("architecture", "config"), [(LlamaForCausalLM, LLAMA), (GPT2LMHeadModel, GPT2)])
def test_samples_that_share_their_beginnings_equal_samples_drawn_alone(architecture: Any, config: Any) -> None:
    model = build(architecture, config)

    samples = generate_samples(model, REQUESTS, SETTINGS, **OPTIONS)

    assert samples == [
        {
            temperature: [sample_one_at_a_time(model, request, number, temperature) for number in range(6)]
            for temperature in SETTINGS.temperatures
        }
        for request in REQUESTS
    ]
    assert len({tuple(tokens) for group in samples[0].values() for tokens in group}) > 3


def test_neither_the_order_nor_the_size_of_a_batch_changes_a_sample(llama: Any) -> None:
    together = generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS)

    alone = [generate_samples(llama, [request], SETTINGS, **OPTIONS)[0] for request in REQUESTS]
    reversed_order = generate_samples(llama, REQUESTS[::-1], SETTINGS, **OPTIONS)
    fewer = generate_samples(llama, REQUESTS, SampleSettings((0.5,), 2, SETTINGS.seed), **OPTIONS)

    assert together == alone == reversed_order[::-1]
    assert [{0.5: groups[0.5][:2]} for groups in together] == fewer


def test_a_sample_depends_on_row_number_temperature_and_seed(llama: Any) -> None:
    first, second = (SampleRequest(row, (5, 6, 7), 12) for row in (1, 2))

    samples = generate_samples(llama, [first, second], SETTINGS, **OPTIONS)
    other_seed = generate_samples(llama, [first], SampleSettings((1.0, 0.5), 6, seed=6), **OPTIONS)

    assert samples[0] != samples[1]
    assert samples[0][1.0] != samples[0][0.5]
    assert samples[0] != other_seed[0]
    assert len(set(map(tuple, samples[0][1.0]))) > 1


def test_every_sample_ends_at_its_own_length_an_end_token_or_the_context(llama: Any) -> None:
    long_prompt = SampleRequest(9, (7,) * (CONTEXT - 2), 12)
    full_prompt = SampleRequest(10, (8,) * CONTEXT, 12)

    samples = generate_samples(llama, [*REQUESTS, long_prompt, full_prompt], SETTINGS, **OPTIONS)

    lengths = [{len(tokens) for group in groups.values() for tokens in group} for groups in samples]
    assert [max(of_request) for of_request in lengths] == [12, 3, 9, 12, 5, 7, 2, 0]
    assert min(lengths[0]) < 12, "an end token was drawn"
    assert not END_IDS & {token for groups in samples for group in groups.values() for t in group for token in t}


def test_a_prompt_is_computed_once_for_all_of_its_samples(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[torch.Size] = []
    real = llama.forward
    monkeypatch.setattr(llama, "forward", lambda **kwargs: (sizes.append(kwargs["input_ids"].shape), real(**kwargs))[1])
    request = SampleRequest(1, (5, 6, 7, 8, 9), 4)

    generate_samples(llama, [request], SampleSettings((1.0, 0.7), 20, seed=0), end_ids=END_IDS, context_tokens=CONTEXT)

    assert sizes[0] == (1, 5)
    assert all(length == 1 and num_paths <= 40 for num_paths, length in sizes[1:])
    assert len(sizes) == 4


def test_a_model_that_is_certain_has_one_path_for_all_samples(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_paths: list[int] = []
    real = llama.forward
    monkeypatch.setattr(
        llama, "forward", lambda **kwargs: (num_paths.append(len(kwargs["input_ids"])), real(**kwargs))[1]
    )
    cold = SampleSettings((1e-6,), 30, seed=0)

    (samples,) = generate_samples(llama, [REQUESTS[0]], cold, end_ids=frozenset(), context_tokens=CONTEXT)

    assert num_paths == [1] * 12
    assert len(set(map(tuple, samples[1e-6]))) == 1


def test_a_stop_request_ends_it_and_progress_counts_every_sample(llama: Any) -> None:
    counts: list[int] = []
    generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS, on_progress=counts.append)
    assert sum(counts) == len(REQUESTS) * 12
    assert counts.count(0) >= 11, "a stop is detected after every token"

    def stop(_: int) -> None:
        raise RunInterruptedError("stop")

    with pytest.raises(RunInterruptedError):
        generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS, on_progress=stop)


def test_lack_of_memory_halves_the_batch_and_changes_no_sample(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS)
    real, max_paths = llama.forward, 5

    def forward(**kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > max_paths:
            raise torch.OutOfMemoryError("no more")
        return real(**kwargs)

    monkeypatch.setattr(llama, "forward", forward)  # the fault
    assert generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS) == expected
    max_paths = 0
    with pytest.raises(OutOfMemory, match="leak_new_tokens"):
        generate_samples(llama, REQUESTS, SETTINGS, **OPTIONS)


def test_tokens_follow_the_softmax_at_the_temperature() -> None:
    logits_PV = torch.tensor([[2.0, 0.0, -1.0], [0.0, -torch.inf, 1.0]])
    uniform_PM = ((torch.arange(10_000) + 0.5) / 10_000).expand(2, -1)

    token_PM = sample_tokens(logits_PV, uniform_PM, 2.0)

    for drawn_M, logits_V in zip(token_PM, logits_PV, strict=True):
        fractions_V = torch.bincount(drawn_M, minlength=3) / 10_000
        torch.testing.assert_close(fractions_V, (logits_V / 2.0).softmax(-1), rtol=0, atol=1e-3)

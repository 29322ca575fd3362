"""Left-padded batches that lose finished rows answer exactly as one question at a time."""

import itertools
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from soul_core.errors import OutOfMemory, RunInterruptedError
from soul_core.models import packed_attention
from soul_core.models.generation import Sampling, generate

CONTEXT = 48
_SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
LLAMA = LlamaConfig(**_SHAPE)
GPT2 = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, bos_token_id=1, eos_token_id=2)
GEMMA2 = Gemma2Config(**_SHAPE, head_dim=8, sliding_window=6)
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17, 18, 19], [9, 8], [20, 21, 22, 23, 24], [30]]


def build(architecture: Any, config: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config._attn_implementation = packed_attention.PACKED_ATTENTION
    model = architecture(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # far from uniform, so that first choices are clear
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    return build(LlamaForCausalLM, LLAMA)


@torch.no_grad()
def one_at_a_time(model: Any, prompt: list[int], end_ids: frozenset[int], room: int) -> list[int]:
    """Decode with no padding, no cache and no batch: the plain definition."""
    tokens = list(prompt)
    for _ in range(min(room, CONTEXT - len(prompt))):
        chosen = int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
        if chosen in end_ids:
            break
        tokens.append(chosen)
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("architecture", "config"), [(LlamaForCausalLM, LLAMA), (GPT2LMHeadModel, GPT2), (Gemma2ForCausalLM, GEMMA2)]
)
def test_a_batch_answers_as_single_rows(architecture: Any, config: Any) -> None:
    model = build(architecture, config)
    free = generate(model, PROMPTS, end_ids=frozenset(), max_new_tokens=12, context_tokens=CONTEXT)
    # Rows reach these end tokens at different steps, so that the batch shrinks.
    end_ids = frozenset({free[0][4], free[2][7], free[4][1]})
    answers = generate(model, PROMPTS, end_ids=end_ids, max_new_tokens=12, context_tokens=CONTEXT)
    assert answers == [one_at_a_time(model, prompt, end_ids, 12) for prompt in PROMPTS]
    assert len({len(answer) for answer in answers}) > 1
    assert not end_ids & set(itertools.chain(*answers))


def test_an_answer_stops_where_the_context_ends(llama: Any) -> None:
    prompts = [[3] * (CONTEXT - 2), [4] * CONTEXT]
    answers = generate(llama, prompts, end_ids=frozenset(), max_new_tokens=20, context_tokens=CONTEXT)
    assert answers[1] == []
    assert len(answers[0]) <= 2


def test_sampling_settings_of_the_models_generation_config_are_ignored(llama: Any) -> None:
    expected = generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=6, context_tokens=CONTEXT)
    llama.generation_config.do_sample, llama.generation_config.temperature = True, 50.0
    assert generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=6, context_tokens=CONTEXT) == expected


def test_progress_counts_every_row_and_can_stop_the_generation(llama: Any) -> None:
    counts: list[int] = []
    generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=3, context_tokens=CONTEXT, on_progress=counts.append)
    assert sum(counts) == len(PROMPTS)

    def stop(_: int) -> None:
        raise RunInterruptedError("stop")

    with pytest.raises(RunInterruptedError):
        generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=3, context_tokens=CONTEXT, on_progress=stop)


def test_no_prompts_give_no_answers(llama: Any) -> None:
    assert generate(llama, [], end_ids=frozenset(), max_new_tokens=3, context_tokens=CONTEXT) == []


def test_lack_of_memory_halves_the_batch_and_changes_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=5, context_tokens=CONTEXT)
    real = llama.forward
    max_rows = 2

    def forward(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > max_rows:
            raise torch.OutOfMemoryError("no more")
        return real(*args, **kwargs)

    monkeypatch.setattr(llama, "forward", forward)  # the fault
    assert generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=5, context_tokens=CONTEXT) == expected
    max_rows = 0
    with pytest.raises(OutOfMemory):
        generate(llama, PROMPTS, end_ids=frozenset(), max_new_tokens=5, context_tokens=CONTEXT)


def test_sampled_answers_depend_on_seed_and_prompt_only_whatever_the_batch(llama: Any) -> None:
    options: dict[str, Any] = {"end_ids": frozenset({3}), "max_new_tokens": 12, "context_tokens": CONTEXT}
    sampling = Sampling(seed=5, temperature=1.5)

    batched = generate(llama, PROMPTS, sampling=sampling, **options)
    single = [generate(llama, [prompt], sampling=sampling, **options)[0] for prompt in PROMPTS]

    assert batched == single
    assert batched != generate(llama, PROMPTS, sampling=Sampling(seed=6, temperature=1.5), **options)
    assert batched != generate(llama, PROMPTS, **options)


def test_a_temperature_near_zero_is_greedy(llama: Any) -> None:
    options: dict[str, Any] = {"end_ids": frozenset({3}), "max_new_tokens": 12, "context_tokens": CONTEXT}

    sampled = generate(llama, PROMPTS, sampling=Sampling(seed=0, temperature=1e-6), **options)

    assert sampled == generate(llama, PROMPTS, **options)


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    logits_V = torch.tensor([2.0, 0.0, -1.0])
    uniform_B = (torch.arange(10_000) + 0.5) / 10_000

    drawn_B = Sampling(seed=0, temperature=2.0).sample_tokens(logits_V.expand(10_000, 3), uniform_B)

    fractions = torch.bincount(drawn_B, minlength=3) / 10_000
    torch.testing.assert_close(fractions, (logits_V / 2.0).softmax(-1), rtol=0, atol=1e-3)


def test_suppressed_tokens_of_a_prompt_are_in_no_answer_to_it(llama: Any) -> None:
    options: dict[str, Any] = {"end_ids": frozenset(), "max_new_tokens": 12, "context_tokens": CONTEXT}
    first = generate(llama, PROMPTS, sampling=Sampling(seed=0, temperature=1.5), **options)
    constrained = tuple(sorted(set(first[0])))

    second = generate(llama, PROMPTS, sampling=Sampling(0, 1.5, {tuple(PROMPTS[0]): constrained}), **options)

    assert len(second[0]) == 12
    assert not set(second[0]) & set(constrained)
    assert second[1:] == first[1:]

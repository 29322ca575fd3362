import pytest
import torch
from transformers import BloomConfig, GptOssConfig, Lfm2Config, Llama4TextConfig, MambaConfig

from bench.tiny_architectures import build_tiny
from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.models.packed_attention import (
    PACKED_ATTENTION,
    check_isolation,
    make_packed_kwargs,
    register_packed_attention,
)
from tests.fixtures.architectures import PACKED_ARCHITECTURES

torch.set_num_threads(1)


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    lengths = (9, 2, 7, 15)
    return [
        Example(tuple(torch.randint(3, 300, (length,), generator=generator).tolist()), 1, row)
        for row, length in enumerate(lengths, start=1)
    ]


def packed_logits(model, some: list[Example]) -> torch.Tensor:
    packed = pack(some)
    return model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        use_cache=False,
        logits_to_keep=packed.supervised_P,
        **make_packed_kwargs(packed),
    ).logits[0]


def loss_and_gradients(model, logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_packed_equals_separate_in_logits_and_gradients(name):
    plain = build_tiny(name, attn_implementation="eager")
    ours = build_tiny(name, attn_implementation=PACKED_ATTENTION)
    some = examples()
    labels = pack(some).labels_P
    apart = torch.cat([plain(torch.tensor([example.token_ids]), use_cache=False).logits[0, :-1] for example in some])
    together = packed_logits(ours, some)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    expected = loss_and_gradients(plain, apart, labels)
    actual = loss_and_gradients(ours, together, labels)
    assert len(actual) == len(expected)
    for ours_grad, plain_grad in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_grad, plain_grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_left_padded_generation_on_the_same_model_equals_plain_attention(name):
    plain = build_tiny(name, attn_implementation="eager")
    ours = build_tiny(name, attn_implementation=PACKED_ATTENTION)
    token_ids = torch.tensor([[2, 2, 2, 7, 8, 9], [20, 30, 40, 50, 60, 70]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    assert torch.equal(ours.generate(token_ids, **options), plain.generate(token_ids, **options))


def test_examples_attend_to_each_other_without_the_keywords():
    """The danger is real: the same tokens under a mask of ones score quite differently."""
    model = build_tiny("Llama", attn_implementation=PACKED_ATTENTION)
    some = examples()
    packed = pack(some)
    leaking = model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        attention_mask=torch.ones_like(packed.token_ids_1T),
        use_cache=False,
        logits_to_keep=packed.supervised_P,
    ).logits[0]
    assert (leaking - packed_logits(model, some)).abs().max() > 0.1


def test_no_square_mask_is_built_for_a_packed_call(monkeypatch):
    from transformers import AttentionMaskInterface

    def refuse(*_, **__):
        raise AssertionError("a mask was asked for")

    AttentionMaskInterface.register(PACKED_ATTENTION, refuse)
    try:
        packed_logits(build_tiny("Llama", attn_implementation=PACKED_ATTENTION), examples())
    finally:
        register_packed_attention()


@pytest.mark.parametrize("drop", ["attention_mask", "segment_lengths"])
def test_one_of_the_two_keywords_alone_raises(drop):
    model = build_tiny("Llama", attn_implementation=PACKED_ATTENTION)
    packed = pack(examples())
    keywords = make_packed_kwargs(packed)
    del keywords[drop]
    with pytest.raises(ValueError, match="packed_kwargs"):
        model(input_ids=packed.token_ids_1T, position_ids=packed.position_ids_1T, use_cache=False, **keywords)


def test_a_cache_in_a_packed_call_raises():
    model = build_tiny("Llama", attn_implementation=PACKED_ATTENTION)
    packed = pack(examples())
    first = model(packed.token_ids_1T, use_cache=True)
    with pytest.raises(ValueError, match="no cache"):
        model(
            input_ids=packed.token_ids_1T,
            past_key_values=first.past_key_values,
            position_ids=packed.position_ids_1T,
            **make_packed_kwargs(packed),
        )


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_supported_architectures_pass_the_isolation_check(name):
    check_isolation(build_tiny(name, attn_implementation=PACKED_ATTENTION), tolerance=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),  # a position bias of its own
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),  # state runs across examples
        Lfm2Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                   num_key_value_heads=2, layer_types=["conv", "full_attention"]),  # so does a convolution
        GptOssConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, num_local_experts=4, head_dim=8),  # attention sinks
        Llama4TextConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
                         intermediate_size_mlp=64, attention_chunk_size=8192),  # chunks longer than any trial
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_architectures_that_would_leak_are_refused(config):
    options = {} if config.model_type == "mamba" else {"attn_implementation": PACKED_ATTENTION}
    with pytest.raises(ValueError, match="cannot be trained on packed examples"):
        check_isolation(build_tiny(config, **options))

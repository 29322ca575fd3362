"""Probes of a model: attention in both directions, batches that change scores, caches that are not exact."""

import pytest
import torch
from transformers import BertConfig

from bench.tiny_architectures import build_tiny
from soul_core.models.capabilities import Capabilities, get_capabilities, get_max_short_rope_tokens, set_capabilities
from soul_core.models.packed_attention import PACKED_ATTENTION
from soul_core.models.probes import can_decode_cached, require_causal, require_padding

torch.set_num_threads(1)

BERT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_a_model_that_reads_in_both_directions_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"set is_decoder to true in config\.json"):
        require_causal(build_tiny(BertConfig(**BERT)))
    require_causal(build_tiny(BertConfig(**BERT, is_decoder=True)))


def test_texts_of_different_rotary_frequencies_do_not_share_a_call():
    model = build_tiny("Phi-3, LongRoPE")
    assert get_max_short_rope_tokens(model) == 12
    with pytest.raises(ValueError, match="scores a text differently in a batch with other texts"):
        require_padding(model)
    set_capabilities(model, Capabilities("padded", max_short_rope_tokens=12))
    require_padding(model)


@pytest.mark.parametrize(("name", "cached"), [("Llama", True), ("BLOOM", True), ("Jamba", True), ("Mamba", False)])
def test_a_cache_is_used_only_if_it_gives_the_scores_of_complete_texts(name, cached):
    assert can_decode_cached(build_tiny(name)) == cached


def test_a_model_without_stored_capabilities_is_classified_by_its_attention():
    assert get_capabilities(build_tiny("Llama", attn_implementation=PACKED_ATTENTION)).batch_layout == "packed"
    assert get_capabilities(build_tiny("Llama")).batch_layout == "padded"

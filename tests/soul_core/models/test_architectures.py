"""Many architectures, saved and loaded as a user's model, against plain transformers with one text at a time."""

import pytest
import torch

from bench.correctness import compare_architecture, passes
from bench.tiny_architectures import ARCHITECTURES, save_tiny
from soul_core.errors import BadModel
from soul_core.models.capabilities import Capabilities, set_capabilities
from soul_core.models.loading import load_model

#: Architectures whose own code lets examples be packed; all others run on padded rows.
PACKED = {"Llama", "Llama, biases", "Llama, YaRN", "Mistral, window", "Qwen2", "Qwen2, window", "Qwen3", "Phi"}
PACKED |= {
    "Phi-3, window",
    "Gemma",
    "Gemma 2",
    "Gemma 3",
    "GPT-2",
    "GPT-BigCode",
    "GPT-NeoX",
    "OPT",
    "OLMo",
    "OLMo 2",
    "Cohere",
    "Granite",
}
PACKED |= {"Starcoder2, window", "SmolLM3", "Persimmon", "GLM-4", "Mixtral", "Qwen2-MoE", "Granite-MoE", "DeepSeek-V3"}
#: Decoded from the whole text: a state runs through left padding, or positions are counted from it.
WHOLE_TEXT = {"Mamba", "Mamba 2", "RecurrentGemma", "RWKV", "Llama 4, chunks"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_scores_trains_and_generates_as_plain_transformers_with_one_text(name, tmp_path):
    comparison = compare_architecture(name, tmp_path / "model")

    assert (comparison.batches == "packed") == (name in PACKED)
    assert comparison.uses_cache == (name not in WHOLE_TEXT)
    assert passes(comparison), comparison


def test_the_comparison_covers_at_least_25_architectures():
    assert len(ARCHITECTURES) >= 25
    assert {"gpt_neo", "gptj", "falcon", "bloom", "mpt", "stablelm", "phi3"} <= {
        kind for kind, _ in ARCHITECTURES.values()
    }


def test_padding_that_changes_scores_is_detected(tmp_path, monkeypatch):
    """The comparison can fail: rows of a LongRoPE model that share a call take one set of frequencies."""

    def forget_rope(model, capabilities):
        set_capabilities(model, Capabilities(capabilities.batch_layout, capabilities.supports_cache))

    monkeypatch.setattr("soul_core.models.loading.set_capabilities", forget_rope)  # the fault
    with pytest.raises(BadModel, match="scores a text differently in a batch with other texts"):
        load_model(save_tiny("Phi-3, LongRoPE", tmp_path / "model"), device="cpu", cache_dir=tmp_path)

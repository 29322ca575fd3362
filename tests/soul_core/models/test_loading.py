from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.tiny_architectures import build_tiny, save_tiny
from bench.tiny_tokenizer import VOCAB_SIZE, make_tiny_tokenizer
from soul_core.errors import BadModel, BadSpec
from soul_core.models.loading import choose_device, choose_dtype, load_model
from soul_core.models.packed_attention import PACKED_ATTENTION
from tests.fixtures.tiny_gguf import write_gguf

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny("Llama", tmp_path / "model")


def test_a_folder_loads_with_float32_masters_whatever_it_stores(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.bfloat16() for name, weight in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    loaded = load_model(folder, device="cpu", dtype="bfloat16", cache_dir=tmp_path)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.model.config._attn_implementation == PACKED_ATTENTION
    assert loaded.compute_dtype == torch.bfloat16
    assert not loaded.model.training
    with loaded.autocast():
        assert loaded.model(torch.tensor([[5, 6]])).logits.dtype == torch.bfloat16


def test_facts_name_the_source_and_its_digest(folder, tmp_path):
    facts = load_model(str(folder), cache_dir=tmp_path, device="cpu").facts
    assert (facts.source, facts.architecture, facts.context_tokens) == (str(folder), "LlamaForCausalLM", 128)
    assert facts.chat_template
    assert len(facts.digest) == 64


def test_a_gguf_file_loads_as_the_model_it_came_from(tmp_path):
    model = build_tiny("Llama")
    path = write_gguf(tmp_path / "blob", model, make_tiny_tokenizer())
    loaded = load_model(path, device="cpu", cache_dir=tmp_path / "cache")
    token_ids = torch.tensor([[5, 9, 200]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(token_ids).logits, model(token_ids).logits)
    assert load_model(path, device="cpu", cache_dir=tmp_path / "cache").facts == loaded.facts


def test_a_tokenizer_without_padding_pads_with_eos_on_the_left(folder, tmp_path):
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load_model(folder, device="cpu", cache_dir=tmp_path)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert loaded.tokenizer.padding_side == "left"


def test_missing_weights_are_refused_not_initialized(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadModel, match="weights are missing") as caught:
        load_model(folder, device="cpu", cache_dir=tmp_path)
    assert caught.value.details == ("model.layers.1.mlp.up_proj.weight",)


def test_weights_that_are_not_finite_are_named(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadModel, match="NaN or infinity") as caught:
        load_model(folder, device="cpu", cache_dir=tmp_path)
    assert caught.value.details == ("model.norm.weight",)


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.ones(31)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadModel):
        load_model(folder, device="cpu", cache_dir=tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(folder, tmp_path):
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens([f"extra{i}" for i in range(100)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadModel, match=rf"the tokenizer has \d+ tokens, but the model has {VOCAB_SIZE} embeddings"):
        load_model(folder, device="cpu", cache_dir=tmp_path)


def test_an_unsafe_folder_is_refused_before_anything_is_loaded(folder, tmp_path):
    (folder / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(BadModel, match="run code"):
        load_model(folder, device="cpu", cache_dir=tmp_path)


def test_an_unknown_architecture_is_refused(folder, tmp_path):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"llama"', '"klingon"').replace("LlamaFor", "KlingonFor"))
    with pytest.raises(BadModel, match="cannot load the model"):
        load_model(folder, device="cpu", cache_dir=tmp_path)


def test_a_damaged_tokenizer_is_refused(folder, tmp_path):
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(BadModel, match="cannot load the model"):
        load_model(folder, device="cpu", cache_dir=tmp_path)


@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_a_hub_id_without_network_is_refused_with_a_remedy(tmp_path, revision):
    with pytest.raises(BadModel, match="give a folder with safetensors or a GGUF file"):
        load_model("somebody/some-model", revision=revision, device="cpu", cache_dir=tmp_path)


def test_a_path_that_does_not_exist_is_not_requested_from_the_hub(tmp_path):
    with pytest.raises(BadModel, match="there is no model at"):
        load_model(tmp_path / "nowhere", cache_dir=tmp_path)


def test_a_hub_id_in_the_cache_at_its_commit_needs_no_network(tmp_path):
    """The cache has the hub client's layout: one snapshot folder per commit."""
    commit = "a" * 40
    save_tiny("Llama", tmp_path / "hub" / "models--somebody--some-model" / "snapshots" / commit)
    facts = load_model("somebody/some-model", revision=commit, device="cpu", cache_dir=tmp_path).facts
    assert (facts.source, facts.digest) == ("somebody/some-model", commit)


def test_device_and_compute_type_follow_the_machine():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(BadSpec, match="no usable GPU"):
            choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_in_bfloat16_over_float32_masters(folder, tmp_path):
    loaded = load_model(folder, cache_dir=tmp_path)
    assert (loaded.device.type, loaded.compute_dtype) == ("cuda", torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}

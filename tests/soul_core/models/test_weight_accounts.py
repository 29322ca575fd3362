"""Every tensor of a file is read, computed by the architecture, or refused by name; output heads are the file's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.tiny_architectures import save_tiny
from soul_core.errors import BadModel
from soul_core.models.loading import load_model
from soul_core.outputs.export import export_checkpoint

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Return a function that saves an architecture with its tensors and its config changed."""

    def save_changed(
        name: str, change: Callable[[Tensors], Tensors] = lambda tensors: tensors, **config: object
    ) -> Path:
        folder = save_tiny(name, tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        save_file(
            {key: tensor.contiguous().clone() for key, tensor in change(tensors).items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        values = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return save_changed


def add(**extra: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in extra.items()}


def remove(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def get_refusal(folder: Path) -> BadModel:
    with pytest.raises(BadModel) as caught:
        load_model(folder, device="cpu")
    return caught.value


def mask(size: int = 128) -> torch.Tensor:
    return torch.ones(1, 1, size, size).tril()


def frequencies(theta: float, size: int = 4) -> torch.Tensor:
    return theta ** -(torch.arange(size) / size)


@pytest.mark.parametrize(
    ("name", "tensor", "values", "remedy"),
    [
        ("Llama", "model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(4, 32), "merge_and_unload"),
        ("Llama", "model.layers.0.self_attn.q_proj.bias", torch.zeros(32), "attention_bias"),
        ("Qwen2", "model.layers.0.self_attn.o_proj.bias", torch.ones(32), "set the flags for them in config.json"),
        ("Llama", "model.layers.2.input_layernorm.weight", torch.ones(32), "num_hidden_layers"),
        ("Llama", "v_head.summary.weight", torch.ones(1, 32), "value or classification head"),
        ("Llama", "model.visual.patch.weight", torch.ones(3), "images or audio"),
        ("Llama", "model.layers.0.self_attn.q_proj.qweight", torch.ones(3, dtype=torch.int32), "unquantized"),
        ("Llama", "model.layers.0.mlp.gate.weight", torch.ones(3), "save the model again"),
        ("Mixtral", "model.layers.0.block_sparse_moe.experts.4.w1.weight", torch.ones(64, 32), "fewer experts"),
        ("Qwen3-Next", "mtp.layers.0.input_layernorm.weight", torch.ones(32), "predict further tokens"),
        ("DeepSeek-V3", "model.layers.61.enorm.weight", torch.ones(32), "predict further tokens"),
        ("Llama", "model.layers.0.self_attn.rotary_emb.inv_freq", frequencies(1e6), "rope_theta"),
        ("GPT-2", "transformer.h.0.attn.bias", torch.ones(1, 1, 128, 128), "set the flags for them in config.json"),
        ("GPT-2", "transformer.h.0.attn.masked_bias", torch.tensor(3.0), "set the flags for them in config.json"),
        ("GPT-2", "transformer.position_ids", torch.arange(1, 129), "save the model again"),
        ("Llama", "norm.weight", torch.full((32,), 7.0), "save the model again"),
    ],
)
def test_a_tensor_that_the_architecture_does_not_read_is_refused_by_name(save, name, tensor, values, remedy):
    error = get_refusal(save(name, add(**{tensor: values})))

    assert error.details == (tensor,)
    assert remedy in error.message


def test_twenty_names_are_given_and_the_rest_counted(save):
    extra = {f"adapter.{number:02}.weight": torch.ones(1) for number in range(30)}

    error = get_refusal(save("Llama", add(**extra)))

    assert "30 tensors" in error.message
    assert error.details[0] == "adapter.00.weight"
    assert error.details[19:] == ("adapter.19.weight", "and 10 more")


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        (
            "GPT-2",
            {
                **{f"transformer.h.{layer}.attn.bias": mask() for layer in (0, 1)},
                "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
            },
        ),
        ("GPT-2", {"transformer.h.0.attn.bias": mask().to(torch.uint8)}),
        ("GPT-NeoX", {"gpt_neox.layers.0.attention.bias": mask().bool(),
                      "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
                      "gpt_neox.layers.0.attention.rotary_emb.inv_freq": frequencies(1e4, 1)}),
        ("GPT-J", {"transformer.h.0.attn.bias": mask(64).bool()}),
        ("Llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies(1e4)}),
        ("Llama", {"model.layers.1.self_attn.rotary_emb.inv_freq": frequencies(1e4).bfloat16()}),
        ("Llama, YaRN", {"model.layers.1.self_attn.rotary_emb.inv_freq": frequencies(1e4).half()}),
        ("Llama", {"model.layers.0.self_attn.rotary_emb.cos_cached":
                   torch.outer(torch.arange(64.0), frequencies(1e4)).repeat(1, 2).cos()[None, None]}),
        ("Llama", {"model.layers.0.self_attn._extra_state": torch.zeros(0)}),
    ],
)  # fmt: skip
def test_tensors_that_the_architecture_computes_itself_are_accepted(save, name, extra):
    plain = load_model(save(name), device="cpu").model.state_dict()

    loaded = load_model(save(name, add(**extra)), device="cpu").model.state_dict()

    assert all(torch.equal(loaded[key], tensor) for key, tensor in plain.items())


@pytest.mark.parametrize(("name", "prefix"), [("GPT-2", "transformer."), ("OPT", "model."), ("BLOOM", "transformer.")])
def test_files_saved_without_the_models_prefix_load(save, name, prefix):
    def shorten(tensors: Tensors) -> Tensors:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}

    loaded = load_model(save(name, shorten), device="cpu").model.state_dict()

    assert torch.equal(
        next(iter(loaded.values())), next(iter(load_model(save(name), device="cpu").model.state_dict().values()))
    )


def test_a_weight_under_two_names_is_accepted_if_both_are_equal(save):
    load_model(save("Llama", lambda tensors: tensors | {"norm.weight": tensors["model.norm.weight"]}), device="cpu")


TIED = [
    ("Llama, biases", "model.embed_tokens.weight"),
    ("Gemma", "model.embed_tokens.weight"),
    ("Cohere", "model.embed_tokens.weight"),
    ("GPT-2", "transformer.wte.weight"),
    ("OPT", "model.decoder.embed_tokens.weight"),
    ("MPT", "transformer.wte.weight"),
]


def own_head(embedding: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {"lm_head.weight": tensors[embedding].flip(0)}


@pytest.mark.parametrize(("name", "embedding"), TIED)
def test_a_head_of_its_own_is_loaded_and_exported_whatever_the_config_says(save, tmp_path, name, embedding):
    folder = save(name, own_head(embedding))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]

    loaded = load_model(folder, device="cpu")

    stored = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.model.get_output_embeddings().weight, stored["lm_head.weight"])
    assert torch.equal(loaded.model.get_input_embeddings().weight, stored[embedding])
    export_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    ids = torch.tensor([[5, 9, 200]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, loaded.model(ids).logits)


@pytest.mark.parametrize(("name", "embedding"), TIED)
@pytest.mark.parametrize("stored", ["both", "head"])
def test_a_stored_head_that_equals_the_embedding_stays_tied(save, name, embedding, stored):
    def change(tensors: Tensors) -> Tensors:
        with_head = tensors | {"lm_head.weight": tensors[embedding]}
        return with_head if stored == "both" else remove(embedding)(with_head)

    loaded = load_model(save(name, change), device="cpu")

    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert loaded.model.config.tie_word_embeddings is True


@pytest.mark.parametrize(("name", "embedding"), TIED)
def test_an_untied_config_without_a_head_is_refused_with_a_remedy(save, name, embedding):
    error = get_refusal(save(name, tie_word_embeddings=False))
    assert "tie_word_embeddings" in error.message


def test_missing_layers_are_counted_before_anything_is_loaded(save):
    error = get_refusal(save("Llama", num_hidden_layers=3))
    assert "3 layers" in error.message
    assert error.details == ("layer 2",)

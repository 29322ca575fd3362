import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.tiny_architectures import build_tiny, save_tiny
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.errors import BadModel
from soul_core.models.files import inspect_model
from tests.fixtures.tiny_gguf import write_gguf

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny("Llama", tmp_path / "model")


def refusal(path: Path) -> str:
    with pytest.raises(BadModel) as caught:
        inspect_model(path)
    return " ".join([caught.value.message, *caught.value.details])


def edit(folder: Path, name: str, **changes) -> None:
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_a_folder_tells_its_facts(folder):
    found = inspect_model(folder)
    model = build_tiny("Llama")
    assert found.architecture == "LlamaForCausalLM"
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.kind, found.context_tokens, found.chat_template) == ("folder", 128, True)
    assert found.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.path for file in found.files}
    assert not inspect_model(save_tiny("Llama", folder.parent / "plain", chat=False)).chat_template


def test_the_digest_depends_on_content_and_names_only(folder, tmp_path):
    first = inspect_model(folder).digest
    assert inspect_model(folder.rename(tmp_path / "elsewhere")).digest == first
    (tmp_path / "elsewhere" / "README.md").write_text("not loaded, not hashed")
    assert inspect_model(tmp_path / "elsewhere").digest == first
    weights = tmp_path / "elsewhere" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert inspect_model(tmp_path / "elsewhere").digest != first


def test_shards_are_followed_through_the_index(tmp_path):
    folder = save_tiny("Llama", tmp_path / "model", shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert inspect_model(folder).num_parameters == inspect_model(save_tiny("Llama", tmp_path / "one")).num_parameters
    shards[1].rename(tmp_path / "kept")
    assert shards[1].name in refusal(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (tmp_path / "kept").rename(shards[1])
    index["weight_map"]["extra.weight"] = shards[0].name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "extra.weight" in refusal(folder)
    index["weight_map"]["extra.weight"] = "../outside.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside the folder" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "deep/er/b.PTH", "c.pkl", "modeling_x.py", "d.so"])
def test_pickles_and_code_are_refused_wherever_they_lie(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
    message = refusal(folder)
    assert name in message
    assert "safetensors" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_auto_map_is_refused(folder, name):
    edit(folder, name, nested={"auto_map": {"AutoModel": "modeling.Evil"}})
    assert f"{name} has an auto_map" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -5000])
def test_a_truncated_safetensors_file_is_refused(folder, keep):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:keep])
    assert "cut off" in refusal(folder)


def test_a_safetensors_header_must_agree_with_itself_and_the_file(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def rewrite(changed: object) -> None:
        text = json.dumps(changed).encode()
        weights.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])

    weights.write_bytes(whole + b"x")
    assert "longer than its header" in refusal(folder)
    name = "model.norm.weight"
    rewrite(header | {name: header[name] | {"shape": [33]}})
    assert "contradicts itself" in refusal(folder)
    for broken in ([], {"a": 1}, {"a": {"dtype": "F32"}}, {"a": {"dtype": "X", "shape": [], "data_offsets": [0, 4]}}):
        rewrite(broken)
        assert "safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no causal language model"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"architectures": ["LlamaModel"]}, "without its language-model head"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "a classifier"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "second head"),
        ({"architectures": ["XLNetLMHeadModel"]}, "in any order"),
        ({"architectures": ["BertLMHeadModel"]}, "set is_decoder to true"),
        ({"transformers_weights": "other.safetensors"}, "call it model.safetensors"),
        ({"architectures": None}, "names no architecture"),
        ({"max_position_embeddings": None}, "context length"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(folder, changes, message):
    edit(folder, "config.json", **changes)
    assert message in refusal(folder)


def test_a_folder_that_is_no_model_says_what_it_is(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in refusal(empty)
    (empty / "m.gguf").write_bytes(b"GGUF")
    assert "m.gguf" in refusal(empty)
    (empty / "m.gguf").rename(empty / "adapter_config.json")
    assert "merge it" in refusal(empty)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)
    assert "no model at" in refusal(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()


def test_a_gguf_file_tells_its_facts_whatever_its_name(tmp_path):
    path = write_gguf(tmp_path / "blob", build_tiny("Llama"), make_tiny_tokenizer())
    found = inspect_model(path)
    assert (found.kind, found.architecture, found.context_tokens, found.chat_template) == ("gguf", "llama", 128, True)
    assert found.num_parameters == inspect_model(save_tiny("Llama", tmp_path / "model")).num_parameters
    assert inspect_model(path.rename(tmp_path / "other.gguf")).digest == found.digest
    content = (tmp_path / "other.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(content[:-100])
    assert "cut off" in refusal(tmp_path / "other.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04 not one")
    assert "not a GGUF file" in refusal(tmp_path / "other.gguf")


def shards(folder: Path) -> list[Path]:
    return sorted(save_tiny("Llama", folder, shard_size="60KB").glob("model-*.safetensors"))


def test_two_sets_of_weights_in_one_folder_are_refused(tmp_path):
    folder = shards(tmp_path / "model")[0].parent
    (save_tiny("Llama", tmp_path / "one") / "model.safetensors").rename(folder / "model.safetensors")
    assert "holds the weights twice" in refusal(folder)


def test_tensors_that_the_index_does_not_name_are_refused_by_name(tmp_path):
    folder = shards(tmp_path / "model")[0].parent
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = index["weight_map"].pop("model.norm.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"model.norm.weight ({shard})" in refusal(folder)


def test_a_tensor_in_two_files_is_refused_by_name(tmp_path):
    first, second, *_ = shards(tmp_path / "model")
    save_file({**load_file(first), **dict([next(iter(load_file(second).items()))])}, first, {"format": "pt"})
    message = refusal(first.parent)
    assert "only one of each can be right" in message
    assert next(iter(load_file(second))) in message


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model-00003-of-00002.safetensors", "is not read (model.safetensors is)"),
        ("value_head.safetensors", "is not read"),
        ("adapter_model.safetensors", "merge the adapter"),
    ],
)
def test_a_weight_file_that_nothing_reads_is_refused_by_name(folder, name, remedy):
    save_file({"extra.weight": torch.ones(2)}, folder / name, {"format": "pt"})
    message = refusal(folder)
    assert name in message
    assert remedy in message
    assert "extra.weight" in message


def test_copies_of_the_same_model_may_lie_beside_it(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({key: tensor.half() for key, tensor in tensors.items()}, folder / "model.fp16.safetensors")
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, folder / "consolidated.safetensors")
    inspect_model(folder)


def test_an_adapter_beside_a_model_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it" in refusal(folder)


def test_architectures_without_a_longest_text_take_the_tokenizers_or_their_own(folder):
    edit(folder, "config.json", max_position_embeddings=None, model_type="bloom", architectures=["BloomForCausalLM"])
    assert inspect_model(folder).context_tokens == 2048
    edit(folder, "tokenizer_config.json", model_max_length=512)
    assert inspect_model(folder).context_tokens == 512

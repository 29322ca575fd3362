"""Inspection of a model's files: the facts that they state, and everything that is refused before loading."""

import json
from pathlib import Path
from typing import Any

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


def get_refusal(path: Path) -> str:
    """Return the error of an inspection, with its details."""
    with pytest.raises(BadModel) as caught:
        inspect_model(path)
    return " ".join([caught.value.message, *caught.value.details])


def edit(folder: Path, name: str, **changes) -> None:
    """Change keys of a JSON file; None removes one."""
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def read_header(weights: Path) -> dict[str, Any]:
    content = weights.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def replace_header(weights: Path, header: object, *, more_data: bytes = b"") -> None:
    """Write a safetensors file with another header, and bytes after the data of the old one."""
    content = weights.read_bytes()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data + more_data)


def test_a_folder_states_its_facts(folder):
    inspection = inspect_model(folder)
    model = build_tiny("Llama")
    assert inspection.architecture == "LlamaForCausalLM"
    assert inspection.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (inspection.kind, inspection.context_tokens, inspection.chat_template) == ("folder", 128, True)
    assert inspection.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.path for file in inspection.files}
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
    shards[1].rename(tmp_path / "moved")
    assert shards[1].name in get_refusal(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (tmp_path / "moved").rename(shards[1])
    index["weight_map"]["extra.weight"] = shards[0].name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "extra.weight" in get_refusal(folder)
    index["weight_map"]["extra.weight"] = "../outside.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside the folder" in get_refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "deep/er/b.PTH", "c.pkl", "modeling_x.py", "d.so"])
def test_pickles_and_code_are_refused_in_any_subfolder(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
    message = get_refusal(folder)
    assert name in message
    assert "safetensors" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_auto_map_is_refused(folder, name):
    edit(folder, name, nested={"auto_map": {"AutoModel": "modeling.Evil"}})
    assert f"{name} has an auto_map" in get_refusal(folder)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -5000])
def test_a_truncated_safetensors_file_is_refused(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])

    assert "model.safetensors is cut off" in get_refusal(folder)


def test_a_safetensors_file_longer_than_its_header_says_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")

    assert "is cut off, or longer than its header says" in get_refusal(folder)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"dtype": "F32", "shape": [33], "data_offsets": [0, 128]}, "invalid shape, data type, or offset"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}, "invalid offset"),
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}, "overflow"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "invalid value"),
        ({"dtype": "X", "shape": [], "data_offsets": [0, 4]}, "unknown variant `X`"),
        ({"dtype": "F32"}, "missing field"),
        (1, "invalid type"),
    ],
)
def test_a_safetensors_header_that_contradicts_itself_is_refused(folder, entry, reason):
    replace_header(folder / "model.safetensors", {"a": entry})

    message = get_refusal(folder)

    assert "model.safetensors is damaged: its header is not a valid safetensors header" in message
    assert reason in message
    assert "download or save it again" in message


@pytest.mark.parametrize(
    "header",
    [b"[]", b"\xff\xfe{}", b"{", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=["a list", "no UTF-8", "no JSON", "nested too deeply"],
)
def test_a_safetensors_header_that_cannot_be_parsed_is_refused(folder, header):
    replace_header(folder / "model.safetensors", header)

    assert "its header is not a valid safetensors header" in get_refusal(folder)


@pytest.mark.parametrize("length", [100_000_001, 10**18], ids=["just above the limit", "larger than any file"])
def test_a_safetensors_header_above_100_mb_is_refused_without_reading_it(folder, length):
    weights = folder / "model.safetensors"
    weights.write_bytes(length.to_bytes(8, "little") + weights.read_bytes()[8:])

    assert "header too large" in get_refusal(folder)


@pytest.mark.parametrize(
    ("stored", "name", "num_bytes"),
    [("F8_E8M0", "float8_e8m0", 8), ("F8_E4M3FNUZ", "float8_e4m3fnuz", 8), ("C64", "complex64", 64)],
)
def test_every_dtype_of_the_safetensors_format_is_read(folder, stored, name, num_bytes):
    weights = folder / "model.safetensors"
    header = read_header(weights)
    end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    header["model.scales"] = {"dtype": stored, "shape": [2, 4], "data_offsets": [end, end + num_bytes]}
    replace_header(weights, header, more_data=bytes(num_bytes))

    assert inspect_model(folder).parameters_by_dtype[name] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is not a causal language model"),
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
    assert message in get_refusal(folder)


def test_a_folder_without_a_model_is_refused_with_what_it_holds(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in get_refusal(empty)
    (empty / "m.gguf").write_bytes(b"GGUF")
    assert "m.gguf" in get_refusal(empty)
    (empty / "m.gguf").rename(empty / "adapter_config.json")
    assert "merge it" in get_refusal(empty)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer" in get_refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in get_refusal(folder)
    assert "no model at" in get_refusal(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()


def test_a_gguf_file_states_its_facts_whatever_its_name(tmp_path):
    path = write_gguf(tmp_path / "blob", build_tiny("Llama"), make_tiny_tokenizer())
    inspection = inspect_model(path)
    assert (inspection.kind, inspection.architecture, inspection.context_tokens, inspection.chat_template) == (
        "gguf",
        "llama",
        128,
        True,
    )
    assert inspection.num_parameters == inspect_model(save_tiny("Llama", tmp_path / "model")).num_parameters
    assert inspect_model(path.rename(tmp_path / "other.gguf")).digest == inspection.digest
    content = (tmp_path / "other.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(content[:-100])
    assert "cut off" in get_refusal(tmp_path / "other.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04 not one")
    assert "not a GGUF file" in get_refusal(tmp_path / "other.gguf")


def save_shards(folder: Path) -> list[Path]:
    return sorted(save_tiny("Llama", folder, shard_size="60KB").glob("model-*.safetensors"))


def test_two_sets_of_weights_in_one_folder_are_refused(tmp_path):
    folder = save_shards(tmp_path / "model")[0].parent
    (save_tiny("Llama", tmp_path / "one") / "model.safetensors").rename(folder / "model.safetensors")
    assert "holds the weights twice" in get_refusal(folder)


def test_tensors_that_the_index_does_not_name_are_refused_by_name(tmp_path):
    folder = save_shards(tmp_path / "model")[0].parent
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = index["weight_map"].pop("model.norm.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"model.norm.weight ({shard})" in get_refusal(folder)


def test_a_tensor_in_two_files_is_refused_by_name(tmp_path):
    first, second, *_ = save_shards(tmp_path / "model")
    save_file({**load_file(first), **dict([next(iter(load_file(second).items()))])}, first, {"format": "pt"})
    message = get_refusal(first.parent)
    assert "only one of each can be right" in message
    assert next(iter(load_file(second))) in message


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model-00003-of-00002.safetensors", "is not read (model.safetensors is); remove it"),
        ("value_head.safetensors", "is not read"),
        ("adapter_model.safetensors", "merge the adapter"),
    ],
)
def test_a_weight_file_that_nothing_reads_is_refused_by_name(folder, name, remedy):
    save_file({"extra.weight": torch.ones(2)}, folder / name, {"format": "pt"})
    message = get_refusal(folder)
    assert name in message
    assert remedy in message
    assert "extra.weight" in message


def test_copies_of_the_same_model_are_accepted_next_to_it(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({key: tensor.half() for key, tensor in tensors.items()}, folder / "model.fp16.safetensors")
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, folder / "consolidated.safetensors")
    inspect_model(folder)


def test_an_adapter_next_to_a_model_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it" in get_refusal(folder)


def test_architectures_without_a_context_limit_take_the_tokenizers_or_2048(folder):
    edit(folder, "config.json", max_position_embeddings=None, model_type="bloom", architectures=["BloomForCausalLM"])
    assert inspect_model(folder).context_tokens == 2048
    edit(folder, "tokenizer_config.json", model_max_length=512)
    assert inspect_model(folder).context_tokens == 512

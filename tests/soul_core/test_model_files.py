import json
from pathlib import Path

import pytest
import torch

from soul_core.errors import BadModel
from soul_core.models.files import inspect_model
from tests.soul_core.tiny_gguf import write_gguf
from tests.soul_core.tiny_models import CONFIGS, save_tiny, tiny_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny(tmp_path / "model")


def refusal(path: Path) -> str:
    with pytest.raises(BadModel) as caught:
        inspect_model(path)
    return " ".join([caught.value.message, *caught.value.details])


def edit(folder: Path, name: str, **changes) -> None:
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_a_folder_tells_its_facts(folder):
    found = inspect_model(folder)
    model = tiny_model(CONFIGS["llama"])
    assert found.architecture == "LlamaForCausalLM"
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.kind, found.context_tokens, found.chat_template) == ("folder", 128, True)
    assert found.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.path for file in found.files}
    assert not inspect_model(save_tiny(folder.parent / "plain", chat=False)).chat_template


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
    folder = save_tiny(tmp_path / "model", shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert inspect_model(folder).num_parameters == inspect_model(save_tiny(tmp_path / "one")).num_parameters
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
        ({"architectures": None}, "names no architecture"),
        ({"max_position_embeddings": None}, "context length"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
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
    path = write_gguf(tmp_path / "blob", tiny_model(CONFIGS["llama"]), tiny_tokenizer())
    found = inspect_model(path)
    assert (found.kind, found.architecture, found.context_tokens, found.chat_template) == ("gguf", "llama", 128, True)
    assert found.num_parameters == inspect_model(save_tiny(tmp_path / "model")).num_parameters
    assert inspect_model(path.rename(tmp_path / "other.gguf")).digest == found.digest
    content = (tmp_path / "other.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(content[:-100])
    assert "cut off" in refusal(tmp_path / "other.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04 not one")
    assert "not a GGUF file" in refusal(tmp_path / "other.gguf")

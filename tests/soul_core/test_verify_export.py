"""`python -m soul_core.verify_export`: an unchanged result passes, and every change of it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from bench.tiny_architectures import TINY_SHAPE
from bench.tiny_tokenizer import VOCAB_SIZE
from soul_core.errors import ExitCode
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.load_probe import PROBE_TEXT, LoadProbe
from soul_core.outputs.result import export_weights, write_manifest
from soul_core.verify_export import VerificationNotPossible, main, verify_export
from tests.fixtures.capitals import COUNTRIES, make_untrained_model
from tests.fixtures.capitals_training import train_tiny
from tests.soul_core.outputs.bases import BASES, export_as_run, load_base


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_base(tmp_path_factory.mktemp("base"), BASES["llama_100000"])


@pytest.fixture(scope="module")
def result(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    export_as_run(llama, out / "checkpoint")
    write_manifest(out)
    return out


def verify(folder: Path, **options: Any) -> dict[str, bool | None]:
    return {result.what: result.passed for result in verify_export(folder, **options)}


@pytest.mark.parametrize("part", [".", "checkpoint"])
def test_a_result_and_the_checkpoint_inside_it_pass(result: Path, part: str) -> None:
    assert verify(result / part) == {"files": True, "tokenizer": True, "chat template": True, "model": True}


def test_a_checkpoint_without_its_manifest_is_compared_by_its_numbers(result: Path, tmp_path: Path) -> None:
    shutil.copytree(result / "checkpoint", tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere") == {"files": None, "tokenizer": True, "chat template": True, "model": True}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_computing_in_16_bits_is_within_its_own_tolerance(result: Path, dtype: str) -> None:
    assert verify(result, dtype=dtype)["model"] is True


def edit_config(folder: Path) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["rope_theta"] = content["rope_parameters"]["rope_theta"] = 10_000.0
    path.write_text(json.dumps(content))


def scale_a_matrix(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.5
    save_file(tensors, path, metadata={"format": "pt"})


def drop_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def add_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "model.extra.weight": torch.ones(2)}, path, metadata={"format": "pt"})


def rename_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(content))


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (edit_config, "model"),
        (scale_a_matrix, "model"),
        (drop_a_tensor, "tensors"),
        (add_a_tensor, "tensors"),
        (rename_tokens, "tokenizer"),
        (other_template, "chat template"),
    ],
)
def test_a_change_is_named_with_and_without_a_manifest(
    result: Path, tmp_path: Path, change: Callable[[Path], None], what: str
) -> None:
    out = shutil.copytree(result, tmp_path / "out")
    change(out / "checkpoint")
    assert verify(out) == {"files": False, "model": None}
    (out / "manifest.json").unlink()
    assert next(name for name, has_passed in verify(out).items() if has_passed is False) == what


def test_missing_and_additional_files_are_named(result: Path, tmp_path: Path) -> None:
    out = shutil.copytree(result, tmp_path / "out")
    (out / "checkpoint" / "generation_config.json").unlink()
    (out / "checkpoint" / "model-00001-of-00002.safetensors").write_bytes(b"")
    detail = next(result.detail for result in verify_export(out) if result.what == "files")
    assert "checkpoint/generation_config.json is missing" in detail
    assert "model-00001-of-00002.safetensors is not in the manifest" in detail


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_is_compared_on_its_base_model(tmp_path: Path) -> None:
    base = make_untrained_model(tmp_path / "base")
    spec = {"lora": {"output": "adapter", "rank": 4}, "training": {"steps": 3}, "optimizer": {"lr": 1e-2}}
    trained, merged = train_tiny(base, tmp_path / "state", spec)
    export_weights(merged, trained.adapter, tmp_path / "out")
    write_manifest(tmp_path / "out")

    assert verify(tmp_path / "out", base=str(base)) == dict.fromkeys(
        ("files", "tokenizer", "chat template", "model"), True
    )
    other = make_untrained_model(tmp_path / "other", seed=1)
    assert verify(tmp_path / "out", base=str(other))["model"] is False
    with pytest.raises(VerificationNotPossible, match="--base"):
        verify_export(tmp_path / "out")


@pytest.mark.parametrize(("content", "message"), [(None, "no folder"), ("", "has no export_check.json")])
def test_a_folder_that_is_not_an_export_does_not_pass(tmp_path: Path, content: str | None, message: str) -> None:
    folder = tmp_path / "x"
    if content is not None:
        folder.mkdir()
    with pytest.raises(VerificationNotPossible, match=message):
        verify_export(folder)


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"format": 99, "text": ""}'])
def test_a_damaged_probe_does_not_pass(result: Path, tmp_path: Path, content: str) -> None:
    out = shutil.copytree(result / "checkpoint", tmp_path / "out")
    (out / "export_check.json").write_text(content)
    with pytest.raises(VerificationNotPossible):
        verify_export(out)


def test_exit_code_and_text_distinguish_equal_different_and_unchecked(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(result, tmp_path / "out")
    edit_config(changed / "checkpoint")
    codes = [main([str(folder)]) for folder in (result, changed, tmp_path / "nothing")]
    printed = capsys.readouterr()
    assert codes == [ExitCode.OK, ExitCode.MISMATCH, ExitCode.BAD_INPUT]
    assert "PASSED: this is the measured model" in printed.out
    assert "FAILED" in printed.out
    assert "checkpoint/config.json was changed" in printed.out or "config.json has" in printed.out
    assert "not checked: there is no folder" in printed.err
    main([str(result), "--json"])
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_the_probe_has_no_text_of_the_data_sets(result: Path) -> None:
    probe = LoadProbe.read(result / "checkpoint")
    text = (result / "checkpoint" / "export_check.json").read_text()
    assert not any(word in text for pair in COUNTRIES.items() for word in pair)
    assert [len(sequence.token_ids) for sequence in probe.sequences] == [128, 24]  # the context is 128
    assert all(0 <= token < VOCAB_SIZE for sequence in probe.sequences for token in sequence.token_ids)
    assert PROBE_TEXT in json.loads(text)["text"]


def test_the_numbers_of_a_probe_are_the_same_with_other_attention(llama: LoadedModel, result: Path) -> None:
    """The run uses its own packed attention, verify_export the eager one of transformers."""
    details = [check.detail for check in verify_export(result) if check.what == "model"]
    assert float(details[0].split("largest difference ")[1].split(",")[0]) < 1e-4


def test_a_template_that_writes_the_date_is_not_compared(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    load_base(folder, LlamaConfig(**TINY_SHAPE))
    loaded = load_model(folder, device="cpu")
    loaded.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}"
    assert verify(export_as_run(loaded, tmp_path / "out"))["chat template"] is None

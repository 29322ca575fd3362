"""Export dtypes: which the base has, what rounding keeps of a training, and what float16 cannot hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.tiny_architectures import TINY_SHAPE, build_tiny
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.errors import BadSpec
from soul_core.models.files import inspect_model
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.dtypes import ExportDtypes, choose_export_dtypes, round_for_export
from tests.fixtures.tiny_gguf import write_gguf
from tests.soul_core.outputs.bases import exported, loaded_base, save_base

TIED = LlamaConfig(**TINY_SHAPE, tie_word_embeddings=True)


def dtypes_of(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for path in folder.glob("*.safetensors") for tensor in load_file(path).values()}


def moved(loaded: LoadedModel, by: float) -> LoadedModel:
    """Move every weight by a share of its size, as a training would."""
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1 + by)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_by_default_the_files_have_the_bases_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    loaded = moved(loaded_base(tmp_path / "base", TIED, dtype=dtype), 0.01)
    assert dtypes_of(exported(loaded, tmp_path / "out")) == {dtype}


@pytest.mark.parametrize(("wanted", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_another_dtype_can_be_asked_for(tmp_path: Path, wanted: str, dtype: torch.dtype) -> None:
    loaded = loaded_base(tmp_path / "base", TIED, dtype=torch.float16)
    assert dtypes_of(exported(loaded, tmp_path / "out", dtype=wanted)) == {dtype}


def test_plain_transformers_reads_the_weights_that_were_measured_to_the_last_bit(tmp_path: Path) -> None:
    loaded = moved(loaded_base(tmp_path / "base", TIED), 0.013)
    folder = exported(loaded, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name


def test_a_base_of_mixed_dtypes_keeps_them_tensor_by_tensor(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: each.float() if "norm" in name else each for name, each in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = moved(load_model(folder, device="cpu"), 0.01)

    out = exported(loaded, tmp_path / "out")

    found = {name: tensor.dtype for name, tensor in load_file(out / "model.safetensors").items()}
    assert found == {name: tensor.dtype for name, tensor in tensors.items()}
    assert choose_export_dtypes(loaded, "base").name == "mixed"
    assert inspect_model(folder).parameters_by_dtype.keys() == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (GGMLQuantizationType.F32, torch.float32),
        (GGMLQuantizationType.F16, torch.float16),
        (GGMLQuantizationType.BF16, torch.bfloat16),
        (GGMLQuantizationType.Q8_0, torch.float16),
        (GGMLQuantizationType.Q4_1, torch.float16),
    ],
)
def test_a_gguf_base_is_written_as_its_matrices_are_and_a_quantized_one_as_float16(
    tmp_path: Path, kind: GGMLQuantizationType, expected: torch.dtype
) -> None:
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer(), kind=kind)
    loaded = load_model(path, device="cpu", cache_dir=tmp_path / "cache")
    assert dtypes_of(exported(loaded, tmp_path / "out")) == {expected}


def test_small_changes_of_a_bfloat16_base_are_lost_and_their_share_is_measured(tmp_path: Path) -> None:
    small = moved(loaded_base(tmp_path / "a", TIED), 1e-4)
    large = moved(loaded_base(tmp_path / "b", TIED), 3e-2)
    lost = round_for_export(small.model, choose_export_dtypes(small, "base"))
    kept = round_for_export(large.model, choose_export_dtypes(large, "base"))
    assert lost.changed_share_kept == 0.0
    assert lost.relative_error == pytest.approx(1.0)
    assert kept.changed_share_kept == 1.0
    assert kept.relative_error is not None
    assert kept.relative_error < 0.2


def test_only_changed_weights_count(tmp_path: Path) -> None:
    """Half a matrix moves by a step of bfloat16, the other by less: of the moved weights one half is kept."""
    loaded = loaded_base(tmp_path / "base", TIED)
    weight = loaded.model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, :16] *= 1 + 2**-7
        weight[:, 16:] *= 1 + 2**-12
    rounding = round_for_export(loaded.model, choose_export_dtypes(loaded, "base"))
    assert rounding.changed_share_kept == pytest.approx(0.5, abs=0.01)


def test_rounding_a_float32_base_is_compared_with_the_rounded_base(tmp_path: Path) -> None:
    """Weights that rounding alone would move are no change of the training."""
    loaded = loaded_base(tmp_path / "base", TIED, dtype=torch.float32)
    untouched = round_for_export(loaded.model, choose_export_dtypes(loaded, "bfloat16"))
    assert untouched.changed_share_kept is None
    again = load_model(tmp_path / "base", device="cpu")
    rounding = round_for_export(moved(again, 1e-5).model, choose_export_dtypes(again, "bfloat16"))
    assert rounding.changed_share_kept is not None
    assert rounding.changed_share_kept < 0.02


def test_a_base_saved_without_its_head_is_compared_under_the_names_it_has(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", TIED)
    tensors = load_file(folder / "model.safetensors")
    headless = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(headless, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = moved(load_model(folder, device="cpu"), 1e-4)
    assert round_for_export(loaded.model, choose_export_dtypes(loaded, "base")).changed_share_kept == 0.0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_weights_too_large_for_float16_are_an_error_with_a_remedy(tmp_path: Path, moment: str) -> None:
    loaded = loaded_base(tmp_path / "base", TIED, dtype=torch.float32)
    dtypes = choose_export_dtypes(loaded, "float16")
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = 1e5
    before = loaded.model.model.norm.weight.clone()

    def ask() -> Any:
        return choose_export_dtypes(loaded, "float16") if moment == "before" else round_for_export(loaded.model, dtypes)

    with pytest.raises(BadSpec, match=r"exceed what float16 can hold .* 'bfloat16' or 'float32'") as caught:
        ask()
    assert caught.value.details == ("model.norm.weight",)
    assert torch.equal(loaded.model.model.norm.weight, before)


def test_float32_rounds_nothing() -> None:
    assert not ExportDtypes("float32").needs_rounding
    assert ExportDtypes("float32", {"a": "bfloat16"}).needs_rounding

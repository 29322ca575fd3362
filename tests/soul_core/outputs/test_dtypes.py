"""Export types: those of the base model, what rounding keeps of a training, and the range of float16."""

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
from tests.soul_core.outputs.bases import export_as_run, load_base, save_base

TIED = LlamaConfig(**TINY_SHAPE, tie_word_embeddings=True)


def dtypes_of(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for path in folder.glob("*.safetensors") for tensor in load_file(path).values()}


def scale_weights(loaded: LoadedModel, by: float) -> LoadedModel:
    """Change every weight by a fraction of its size, as a training does."""
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1 + by)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_by_default_the_files_have_the_type_of_the_base_model(tmp_path: Path, dtype: torch.dtype) -> None:
    loaded = scale_weights(load_base(tmp_path / "base", TIED, dtype=dtype), 0.01)
    assert dtypes_of(export_as_run(loaded, tmp_path / "out")) == {dtype}


@pytest.mark.parametrize(("wanted", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_spec_can_set_another_type(tmp_path: Path, wanted: str, dtype: torch.dtype) -> None:
    loaded = load_base(tmp_path / "base", TIED, dtype=torch.float16)
    assert dtypes_of(export_as_run(loaded, tmp_path / "out", dtype=wanted)) == {dtype}


def test_plain_transformers_reads_exactly_the_measured_weights(tmp_path: Path) -> None:
    loaded = scale_weights(load_base(tmp_path / "base", TIED), 0.013)
    folder = export_as_run(loaded, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name


def test_a_base_model_with_mixed_types_keeps_them_tensor_by_tensor(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.float() if "norm" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = scale_weights(load_model(folder, device="cpu"), 0.01)

    out = export_as_run(loaded, tmp_path / "out")

    dtypes = {name: tensor.dtype for name, tensor in load_file(out / "model.safetensors").items()}
    assert dtypes == {name: tensor.dtype for name, tensor in tensors.items()}
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
def test_a_gguf_base_keeps_the_type_of_its_matrices_or_becomes_float16(
    tmp_path: Path, kind: GGMLQuantizationType, expected: torch.dtype
) -> None:
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer(), kind=kind)
    loaded = load_model(path, device="cpu", cache_dir=tmp_path / "cache")
    assert dtypes_of(export_as_run(loaded, tmp_path / "out")) == {expected}


def test_small_changes_of_a_bfloat16_model_are_lost_and_counted(tmp_path: Path) -> None:
    small = scale_weights(load_base(tmp_path / "a", TIED), 1e-4)
    large = scale_weights(load_base(tmp_path / "b", TIED), 3e-2)
    small_rounding = round_for_export(small.model, choose_export_dtypes(small, "base"))
    large_rounding = round_for_export(large.model, choose_export_dtypes(large, "base"))
    assert small_rounding.changed_share_kept == 0.0
    assert small_rounding.relative_error == pytest.approx(1.0)
    assert large_rounding.changed_share_kept == 1.0
    assert large_rounding.relative_error is not None
    assert large_rounding.relative_error < 0.2


def test_only_changed_weights_count(tmp_path: Path) -> None:
    """Half a matrix changes by a step of bfloat16, the other half by less: half of the changed weights differ."""
    loaded = load_base(tmp_path / "base", TIED)
    weight = loaded.model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, :16] *= 1 + 2**-7
        weight[:, 16:] *= 1 + 2**-12
    rounding = round_for_export(loaded.model, choose_export_dtypes(loaded, "base"))
    assert rounding.changed_share_kept == pytest.approx(0.5, abs=0.01)


def test_a_rounded_float32_model_is_compared_with_its_rounded_base(tmp_path: Path) -> None:
    """Weights that only the rounding changes do not count."""
    loaded = load_base(tmp_path / "base", TIED, dtype=torch.float32)
    untouched = round_for_export(loaded.model, choose_export_dtypes(loaded, "bfloat16"))
    assert untouched.changed_share_kept is None
    again = load_model(tmp_path / "base", device="cpu")
    rounding = round_for_export(scale_weights(again, 1e-5).model, choose_export_dtypes(again, "bfloat16"))
    assert rounding.changed_share_kept is not None
    assert rounding.changed_share_kept < 0.02


def test_a_base_model_saved_without_its_head_is_compared_by_its_own_names(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", TIED)
    tensors = load_file(folder / "model.safetensors")
    headless = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(headless, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = scale_weights(load_model(folder, device="cpu"), 1e-4)
    assert round_for_export(loaded.model, choose_export_dtypes(loaded, "base")).changed_share_kept == 0.0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_weights_too_large_for_float16_are_an_error_with_a_remedy(tmp_path: Path, moment: str) -> None:
    loaded = load_base(tmp_path / "base", TIED, dtype=torch.float32)
    dtypes = choose_export_dtypes(loaded, "float16")
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = 1e5
    before = loaded.model.model.norm.weight.clone()

    def choose_or_round() -> Any:
        return choose_export_dtypes(loaded, "float16") if moment == "before" else round_for_export(loaded.model, dtypes)

    with pytest.raises(BadSpec, match=r"exceed the range of float16 .* 'bfloat16' or 'float32'") as caught:
        choose_or_round()
    assert caught.value.details == ("model.norm.weight",)
    assert torch.equal(loaded.model.model.norm.weight, before)


def test_float32_rounds_nothing() -> None:
    assert not ExportDtypes("float32").needs_rounding
    assert ExportDtypes("float32", {"a": "bfloat16"}).needs_rounding

"""LoRA: only adapters train, the model is plain afterwards, and the defaults forget."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.packing import pack
from soul_core.errors import BadSpec, RunCancelledError
from soul_core.events import StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import score
from soul_core.outputs.result import export_weights
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.training.quantized_base import FrozenLinear, StorageFormat, check_quantizable
from soul_core.training.trainable import TrainableParameters, check_trainable_parameters
from soul_core.training.trainer import train
from tests.fixtures.capitals import write_rows
from tests.fixtures.capitals_training import NAMES, RecordingListener, examples_of, probability, train_tiny, weights

NEEDS_TORCHAO = pytest.mark.skipif(find_spec("torchao") is None, reason="the extra 'quantized' is not installed")
QUANTIZED = [pytest.param(storage, marks=NEEDS_TORCHAO) for storage in ("int8", "nf4")]

FORGETS = {
    "optimizer": {"kind": "adamw", "lr": 5e-3},
    "lora": {},
    "retain": {"weight": 3},
    "training": {"steps": 40, "stop_at": None},
}


def spec_of(**lora: Any) -> JobSpec:
    return JobSpec.model_validate({"lora": lora})


@torch.no_grad()
def compute_logits(loaded: LoadedModel) -> torch.Tensor:
    return score(loaded.model, pack(examples_of(loaded)[0])).logits_PV


def test_new_adapters_change_no_output_and_only_they_are_trainable(loaded: LoadedModel) -> None:
    before = compute_logits(loaded)

    trainable = TrainableParameters(loaded, spec_of(rank=4))

    assert torch.equal(compute_logits(loaded), before)
    names = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 2 * 7  # A and B, two layers, seven projections each; not the last layer
    assert all(".lora_" in name for name in names)
    trainable.finalize()


def test_the_merged_model_is_plain_and_has_the_outputs_of_the_adapted_one(loaded: LoadedModel) -> None:
    names = {name: parameter.shape for name, parameter in loaded.model.named_parameters()}
    trainable = TrainableParameters(loaded, spec_of(rank=4))
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    adapted = compute_logits(loaded)

    trainable.finalize()

    torch.testing.assert_close(compute_logits(loaded), adapted, rtol=1e-3, atol=1e-3)
    assert {name: parameter.shape for name, parameter in loaded.model.named_parameters()} == names
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not hasattr(loaded.model, "peft_config")


def test_adapters_depend_on_the_seed_only_and_use_no_global_random_numbers(loaded: LoadedModel) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    initial = []
    for seed in (0, 0, 1):
        torch.manual_seed(11)
        trainable = TrainableParameters(loaded, JobSpec.model_validate({"lora": {"rank": 4}, "seed": seed}))
        assert torch.equal(torch.rand(3), expected)
        initial.append(
            torch.cat([p.flatten() for name, p in loaded.model.named_parameters() if "lora_A" in name]).detach()
        )
        trainable.finalize()

    assert torch.equal(initial[0], initial[1])
    assert not torch.equal(initial[0], initial[2])


def test_patterns_select_the_layers_that_get_an_adapter(loaded: LoadedModel) -> None:
    spec = JobSpec.model_validate(
        {"lora": {"targets": ["q_proj", "down_proj"]}, "parameters": {"include": ["model.layers.1.*"]}}
    )

    trainable = TrainableParameters(loaded, spec)

    adapted = {name.partition(".lora_")[0] for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert adapted == {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"}
    trainable.finalize()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"lora": {"targets": ["qproj"]}},
            "lora.targets.0: no linear layer has the name 'qproj'; did you mean 'q_proj'",
        ),
        ({"lora": {"targets": ["zzz"]}}, "the model has down_proj, gate_proj"),
        ({"lora": {}, "parameters": {"include": ["*norm*"]}}, "none of the selected weights is a target of LoRA"),
        ({"parameters": {"include": ["model.layer.0.*"]}}, "parameters.include.0: .* matches no weight"),
    ],
)
def test_targets_and_patterns_that_the_model_does_not_have_are_refused(
    loaded: LoadedModel, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadSpec, match=message):
        check_trainable_parameters(loaded, JobSpec.model_validate(spec))


def test_npo_with_lora_on_all_linear_layers_forgets(taught_model_dir: Path, tmp_path: Path) -> None:
    base = load_model(taught_model_dir, device="cpu")
    forget, retain = examples_of(base)
    assert probability(base, forget) > 0.9

    _, after = train_tiny(taught_model_dir, tmp_path, FORGETS)

    assert probability(after, forget) < 0.05
    assert probability(after, retain) > 0.7


@pytest.mark.parametrize("storage", ["bfloat16", *QUANTIZED])
def test_with_quantized_base_weights_it_forgets_and_keeps_the_original_precision(
    storage: str, taught_model_dir: Path, tmp_path: Path
) -> None:
    before = load_model(taught_model_dir, device="cpu")
    spec = {**FORGETS, "lora": {"base_weights": storage, "rank": 2, "output": "adapter"}, "training": {"steps": 20}}

    trained, after = train_tiny(taught_model_dir, tmp_path, spec)

    assert probability(after, examples_of(after)[0]) < 0.3
    assert trained.adapter is not None
    name = "model.layers.1.mlp.up_proj"
    a, b = (trained.adapter.tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    delta = after.model.get_submodule(name).weight - before.model.get_submodule(name).weight
    torch.testing.assert_close(delta.detach(), 32 / 2 * b @ a, rtol=1e-4, atol=1e-5)
    assert type(after.model.get_submodule(name)) is torch.nn.Linear


@pytest.mark.parametrize(
    ("storage", "bits"),
    [
        ("bfloat16", 8),
        pytest.param("int8", 7, marks=NEEDS_TORCHAO),
        pytest.param("nf4", 3, marks=NEEDS_TORCHAO),
    ],
)
def test_a_frozen_layer_computes_as_the_original_up_to_rounding(storage: StorageFormat, bits: int) -> None:
    torch.manual_seed(0)
    original = torch.nn.Linear(64, 48)
    x = torch.randn(5, 64, requires_grad=True)
    expected = original(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)

    frozen = FrozenLinear(original, storage)
    output = frozen(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)

    assert ((output - expected).norm() / expected.norm()).item() < 2 ** (1 - bits)
    assert ((gradient - expected_gradient).norm() / expected_gradient.norm()).item() < 2 ** (2 - bits)
    assert [name for name, _ in frozen.named_parameters()] == ["bias"]


def test_the_gradient_of_a_frozen_layer_can_be_differentiated() -> None:
    frozen = FrozenLinear(torch.nn.Linear(8, 4), "bfloat16")

    assert torch.autograd.gradgradcheck(
        lambda x: frozen(x.float()).double().pow(3), torch.randn(2, 8, dtype=torch.float64, requires_grad=True),
        eps=1e-2, atol=0.1, rtol=0.1,
    )  # fmt: skip


@NEEDS_TORCHAO
def test_a_layer_that_does_not_fill_blocks_is_refused_in_4_bits() -> None:
    with pytest.raises(BadSpec, match="'nf4' packs 64 weights, and a layer has 60; use 'int8'"):
        check_quantizable(torch.nn.Linear(10, 6), "nf4")


def test_without_torchao_quantized_weights_are_refused_with_what_to_install(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)  # the fault

    with pytest.raises(
        BadSpec, match=r"'nf4' needs torchao on the worker \(pip install 'soul-unlearning\[quantized\]'"
    ):
        check_trainable_parameters(loaded, spec_of(base_weights="nf4"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
def test_an_exported_adapter_loads_in_peft_and_has_the_same_outputs(
    taught_model_dir: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    from peft import PeftModel

    spec = {**FORGETS, "lora": {"output": "adapter", "rank": 4}, "training": {"steps": 5}}
    trained, merged = train_tiny(taught_model_dir, tmp_path, spec)

    export_weights(merged, trained.adapter, tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "export_check.json",
    ]
    assert str(taught_model_dir.parent) not in (tmp_path / "out" / "adapter" / "adapter_config.json").read_text()
    expected = compute_logits(merged)
    PeftModel.from_pretrained(loaded.model, tmp_path / "out" / "adapter")
    torch.testing.assert_close(compute_logits(loaded), expected, rtol=1e-3, atol=1e-3)


def test_a_merged_run_exports_no_adapter(taught_model_dir: Path, tmp_path: Path) -> None:
    trained, merged = train_tiny(taught_model_dir, tmp_path, {**FORGETS, "training": {"steps": 2}})

    assert trained.adapter is None
    export_weights(merged, None, tmp_path / "out")
    plain = load_model(tmp_path / "out" / "checkpoint", device="cpu")
    assert torch.equal(weights(plain), weights(merged))


def test_a_training_that_fails_leaves_a_plain_model(loaded: LoadedModel, tmp_path: Path) -> None:
    names = [name for name, _ in loaded.model.named_parameters()]
    forget, retain = examples_of(loaded)
    spec = JobSpec.model_validate({**FORGETS, "lora": {"base_weights": "bfloat16"}})
    listener = RecordingListener(stop_after_metrics=1, request=StopRequest.CANCEL)

    with pytest.raises(RunCancelledError):
        train(loaded, spec, forget=forget, retain=retain, state_dir=tmp_path, listener=listener)

    assert [name for name, _ in loaded.model.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


RUN: dict[str, Any] = {
    "training": {"steps": 2},
    "evaluation": {"metrics": ["probability"], "bootstrap": 0},
    "attacks": [],
    "criteria": [],
}


def test_a_run_exports_the_adapter_instead_of_a_checkpoint(taught_model_dir: Path, tmp_path: Path) -> None:
    sets = {
        "forget": write_rows(tmp_path / "f.jsonl", NAMES[:2]),
        "retain": write_rows(tmp_path / "r.jsonl", NAMES[2:]),
    }
    spec = JobSpec.model_validate({**RUN, "lora": {"output": "adapter", "rank": 2}})

    report = run(spec, RunInputs(model=str(taught_model_dir), dataset_paths=sets), tmp_path / "out")

    files = [file["path"] for file in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]]
    assert [path for path in files if path.startswith(("adapter/", "checkpoint/"))] == [
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/export_check.json",
    ]
    assert set(report.models) == {"base", "unlearned"}


def test_a_run_refuses_a_pattern_that_matches_nothing_before_it_measures(
    taught_model_dir: Path, tmp_path: Path
) -> None:
    sets = {
        "forget": write_rows(tmp_path / "f.jsonl", NAMES[:2]),
        "retain": write_rows(tmp_path / "r.jsonl", NAMES[2:]),
    }
    spec = JobSpec.model_validate({**RUN, "parameters": {"include": ["transformer.h.0.*"]}})
    listener = RecordingListener()

    with pytest.raises(BadSpec, match=r"parameters\.include\.0: .* matches no weight"):
        run(spec, RunInputs(model=str(taught_model_dir), dataset_paths=sets), tmp_path / "out", listener=listener)

    assert {data["phase"] for data in listener.of("phase")} == {"load"}

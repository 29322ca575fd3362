"""Complete runs: the measured model is the exported one with every strategy; the report states what rounding lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.tiny_tokenizer import CHAT_TEMPLATE
from soul_core.errors import BadSpec, RunInterruptedError
from soul_core.events import SilentListener, StopRequest
from soul_core.models.files import inspect_model
from soul_core.models.gguf import convert_to_folder
from soul_core.models.loading import load_model
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.verify_export import verify_export
from tests.fixtures.capitals import COUNTRIES, answer, question, write_rows

FORGET, RETAIN = list(COUNTRIES)[:4], list(COUNTRIES)[4:]
SPEC: dict[str, Any] = {
    "optimizer": {"kind": "adamw", "lr": 3e-3},
    "retain": {"kind": "nll", "weight": 3.0},
    "training": {"steps": 2, "checkpoint_every": 1},
    "evaluation": {"metrics": ["probability"], "bootstrap": 0, "num_answer_samples": 0},
    "attacks": [],
}


@pytest.fixture(scope="module")
def base(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught model in bfloat16, as most models are published."""
    folder = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(taught_model_dir, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(taught_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {"forget": write_rows(folder / "f.jsonl", FORGET), "retain": write_rows(folder / "r.jsonl", RETAIN)}


def probability_by_plain_transformers(folder: Path, names: list[str]) -> float:
    """Return the mean over rows of exp(mean log-probability of an answer token), without any code of this project."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    values = []
    for name in names:
        turns = [{"role": "user", "content": question(name)}, {"role": "assistant", "content": answer(name)}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, chat_template=CHAT_TEMPLATE).rstrip("\n")
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        head = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        values.append(torch.stack([logp[i - 1, ids[i]] for i in range(start, len(ids))]).mean().exp().item())
    return sum(values) / len(values)


STRATEGIES: dict[str, dict[str, Any]] = {
    "single": {},
    "float16": {"export": {"dtype": "float16"}},
    "lora": {"lora": {"rank": 2}},
    "influence": {"strategy": {"kind": "influence"}, "optimizer": {}, "training": {}, "retain": {"kind": "nll"}},
    "search": {"strategy": {"kind": "search", "lr": [1e-3, 1e-2], "trials": 2, "eval_every": 1}},
    "ensemble": {
        "strategy": {"kind": "ensemble", "merge": "mean", "members": [{}, {"optimizer": {"kind": "adamw", "lr": 1e-3}}]}
    },
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_reports_numbers_are_those_of_the_exported_weights(
    base: Path, sets: dict[str, Path], tmp_path: Path, name: str
) -> None:
    spec = JobSpec.model_validate({**SPEC, **STRATEGIES[name]})

    report = run(spec, RunInputs(model=str(base), dataset_paths=sets), tmp_path)

    dtype = {"float16": torch.float16}.get(name, torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "checkpoint" / "model.safetensors").values()} == {dtype}
    for set_name, names in (("forget", FORGET), ("retain", RETAIN), ("retain_held_out", RETAIN)):
        reported = report.models["unlearned"].sets[set_name]["probability"].value
        measured = [names[row - 1] for row in report.models["unlearned"].rows[set_name]]
        assert probability_by_plain_transformers(tmp_path / "checkpoint", measured) == pytest.approx(reported, abs=1e-4)
    assert all(finding.passed for finding in verify_export(tmp_path))


def test_a_fine_tuned_model_is_rounded_too(base: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    spec = JobSpec.model_validate({key: SPEC[key] for key in SPEC if key != "retain"} | {"kind": "finetune"})
    report = run(spec, RunInputs(model=str(base), dataset_paths={"train": sets["retain"]}), tmp_path)
    reported = report.models["finetuned"].sets["train"]["probability"].value
    assert probability_by_plain_transformers(tmp_path / "checkpoint", RETAIN) == pytest.approx(reported, abs=1e-4)
    assert report.export is not None
    assert report.export.dtype == "bfloat16"


def test_an_evaluation_rounds_nothing_and_writes_no_model(base: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    spec = JobSpec.model_validate(
        {"kind": "evaluate", "evaluation": SPEC["evaluation"], "attacks": [], "export": {"dtype": "base"}}
    )
    report = run(spec, RunInputs(model=str(base), dataset_paths=sets), tmp_path)
    assert report.export is None
    assert not (tmp_path / "checkpoint").exists()


@pytest.fixture(scope="module")
def small_steps(
    base: Path, sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Report, Path]]:
    """Two runs with steps far below the precision of bfloat16, one exported in it and one in float32."""
    runs = {}
    for dtype in ("base", "float32"):
        spec = JobSpec.model_validate({**SPEC, "optimizer": {"kind": "adamw", "lr": 1e-7}, "export": {"dtype": dtype}})
        out = tmp_path_factory.mktemp(dtype)
        runs[dtype] = run(spec, RunInputs(model=str(base), dataset_paths=sets), out), out
    return runs


def test_a_training_that_rounding_undoes_has_a_caveat_with_a_remedy(
    small_steps: dict[str, tuple[Report, Path]],
) -> None:
    report, out = small_steps["base"]
    assert report.export is not None
    assert report.export.changed_share_kept is not None
    assert report.export.changed_share_kept < 0.05
    caveat = next(caveat for caveat in report.caveats if "undid most of the training" in caveat)
    assert "export.dtype 'float32'" in caveat
    assert "undid most of the training" in (out / "checkpoint" / "README.md").read_text()
    before, after = (report.models[name].sets["forget"]["probability"].value for name in ("base", "unlearned"))
    assert after == pytest.approx(before, abs=1e-3)


def test_float32_keeps_every_change_and_the_card_names_the_vllm_option(
    small_steps: dict[str, tuple[Report, Path]],
) -> None:
    report, out = small_steps["float32"]
    assert report.export is not None
    assert report.export.changed_share_kept == 1.0
    assert not any("undid" in caveat for caveat in report.caveats)
    card = (out / "checkpoint" / "README.md").read_text()
    assert "The weights are float32" in card
    assert "--dtype float32" in card


class InterruptAtPhase(SilentListener):
    """Requests an interrupt from a phase on."""

    def __init__(self, when: str) -> None:
        self._when, self._now = when, StopRequest.NONE

    def emit(self, kind: str, **data: Any) -> None:
        if kind == "phase" and data["phase"] == self._when:
            self._now = StopRequest.INTERRUPT

    def stop_request(self) -> StopRequest:
        return self._now


def test_a_resumed_run_rounds_to_the_same_bits(base: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    spec, inputs = JobSpec.model_validate(SPEC), RunInputs(model=str(base), dataset_paths=sets)
    with pytest.raises(RunInterruptedError):
        run(spec, inputs, tmp_path / "a", listener=InterruptAtPhase("evaluate"))

    resumed = run(spec, inputs, tmp_path / "a")

    undisturbed = run(spec, inputs, tmp_path / "b")
    files = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab"]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[1])
    assert resumed.models == undisturbed.models
    assert resumed.export == undisturbed.export


def test_a_gguf_file_is_an_additional_file_of_the_result(base: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    spec = JobSpec.model_validate({**SPEC, "export": {"gguf": "f16"}})

    report = run(spec, RunInputs(model=str(base), dataset_paths=sets), tmp_path / "out")

    paths = [file["path"] for file in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]]
    assert "gguf/model-f16.gguf" in paths
    assert report.export is not None
    assert report.export.gguf is not None
    assert report.export.gguf.relative_error < 0.01
    written = tmp_path / "out" / "gguf" / "model-f16.gguf"
    folder = convert_to_folder(written, digest=inspect_model(written).digest, cache_dir=tmp_path)
    ours, again = (load_model(path, device="cpu").model for path in (tmp_path / "out" / "checkpoint", folder))
    ids = torch.tensor([[5, 9, 20, 31]])
    with torch.no_grad():
        read_back, expected = (model(ids).logits.log_softmax(-1) for model in (again, ours))
    assert (read_back.exp() - expected.exp()).abs().max() < 1e-3
    assert "model-f16.gguf" in (tmp_path / "out" / "checkpoint" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export": {"gguf": "f16"}, "lora": {"output": "adapter"}}, "an adapter alone makes no GGUF file"),
        ({"export": {"dtype": "bfloat16"}, "lora": {"output": "adapter"}}, "measured and written in float32"),
        ({"kind": "evaluate", "export": {"gguf": "f16"}}, "writes no model"),
    ],
)
def test_an_impossible_export_is_refused_before_anything_is_loaded(
    sets: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    spec = {key: value for key, value in SPEC.items() if "kind" not in changes or key == "evaluation"}
    with pytest.raises(BadSpec, match=message):
        run(JobSpec.model_validate({**spec, **changes}), RunInputs(model="nowhere", dataset_paths=sets), tmp_path)

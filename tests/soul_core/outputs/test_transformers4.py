"""Exported folders in transformers 4.57, which `make compat` installs: the same numbers, tokens and templates."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.models.loading import load_model
from soul_core.verify_export import verify_export
from tests.paths import ROOT
from tests.soul_core.outputs.bases import BASES, export_as_run, load_base

SIDE = os.environ.get("SOUL_TRANSFORMERS4")
HERE = Path(__file__).parent
BASES_OF_4X = ("llama", "llama3", "tied", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2")

pytestmark = pytest.mark.skipif(SIDE is None, reason="transformers 4.57 is not installed: make compat")


def in_transformers4(*arguments: Any) -> Any:
    assert SIDE is not None
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "in_transformers4.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{Path(SIDE).resolve()}:{ROOT}", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"].startswith("4.57.")
    return answer["output"]


@pytest.fixture(scope="module")
def bases_of_4x(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("bases4")
    return folder, in_transformers4("make", folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, bases_of_4x: tuple[Path, Any]) -> dict[str, Path]:
    """Exports of models that transformers 5 saved, of models that 4.57 saved, and two without the keys of 4.x."""
    root, exports = tmp_path_factory.mktemp("exports"), {}
    for name, config in BASES.items():
        exports[name] = export_as_run(load_base(root / "base" / name, config), root / name)
    for name in BASES_OF_4X:
        make_tiny_tokenizer().save_pretrained(bases_of_4x[0] / name)
        exports[f"{name} of 4.57"] = export_as_run(load_model(bases_of_4x[0] / name, device="cpu"), root / f"{name}4")
    for name in ("llama_100000", "gemma3"):
        changed = shutil.copytree(exports[name], root / f"{name} of 5 alone")
        content = json.loads((changed / "config.json").read_text())
        rope = {"rope_theta", "rope_scaling", "rope_local_base_freq"}
        (changed / "config.json").write_text(json.dumps({k: v for k, v in content.items() if k not in rope}))
        exports[f"{name} of 5 alone"] = changed
    return exports


@pytest.fixture(scope="module")
def findings(folders: dict[str, Path]) -> dict[str, dict[str, bool | None]]:
    output = in_transformers4("verify", *folders.values())
    return {
        name: {result["what"]: result["passed"] for result in output[str(folder)]} for name, folder in folders.items()
    }


@pytest.mark.parametrize("name", [*BASES, *(f"{name} of 4.57" for name in BASES_OF_4X)])
def test_transformers_4_and_5_verify_an_export(
    folders: dict[str, Path], findings: dict[str, dict[str, bool | None]], name: str
) -> None:
    all_passed = {"files": None, "tokenizer": True, "chat template": True, "model": True}
    in_5 = {result.what: result.passed for result in verify_export(folders[name])}
    assert (findings[name], in_5) == (all_passed, all_passed)


@pytest.mark.parametrize("name", ["llama_100000", "gemma3"])
def test_without_the_keys_of_4x_the_numbers_differ(
    folders: dict[str, Path], findings: dict[str, dict[str, bool | None]], name: str
) -> None:
    changed = f"{name} of 5 alone"
    assert findings[changed]["model"] is False
    assert all(result.passed is not False for result in verify_export(folders[changed]))


@pytest.mark.parametrize("name", BASES_OF_4X)
def test_a_model_of_4x_computes_the_same_logits(bases_of_4x: tuple[Path, dict[str, list[float]]], name: str) -> None:
    folder, expected = bases_of_4x
    ids = [5, 9, 20, 31, 7, 300, 12, 44, 3, 81] * 9
    if not (folder / name / "tokenizer.json").is_file():
        make_tiny_tokenizer().save_pretrained(folder / name)
    with torch.no_grad():
        ours = load_model(folder / name, device="cpu").model(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(ours, torch.tensor(expected[name]), atol=1e-4, rtol=1e-4)

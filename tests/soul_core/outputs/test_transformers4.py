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
from tests.soul_core.outputs.bases import BASES, exported, loaded_base

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
    told = json.loads(done.stdout)
    assert told["version"].startswith("4.57.")
    return told["found"]


@pytest.fixture(scope="module")
def said_by_4x(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("bases4")
    return folder, in_transformers4("make", folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, said_by_4x: tuple[Path, Any]) -> dict[str, Path]:
    """Exports of bases that transformers 5 saved, of bases that 4.57 saved, and two that were spoiled."""
    root, made = tmp_path_factory.mktemp("exports"), {}
    for name, config in BASES.items():
        made[name] = exported(loaded_base(root / "base" / name, config), root / name)
    for name in BASES_OF_4X:
        make_tiny_tokenizer().save_pretrained(said_by_4x[0] / name)
        made[f"{name} of 4.57"] = exported(load_model(said_by_4x[0] / name, device="cpu"), root / f"{name}4")
    for name in ("llama_100000", "gemma3"):
        spoiled = shutil.copytree(made[name], root / f"{name} of 5 alone")
        content = json.loads((spoiled / "config.json").read_text())
        rope = {"rope_theta", "rope_scaling", "rope_local_base_freq"}
        (spoiled / "config.json").write_text(json.dumps({k: v for k, v in content.items() if k not in rope}))
        made[f"{name} of 5 alone"] = spoiled
    return made


@pytest.fixture(scope="module")
def findings(folders: dict[str, Path]) -> dict[str, dict[str, bool | None]]:
    found = in_transformers4("verify", *folders.values())
    return {name: {one["what"]: one["passed"] for one in found[str(folder)]} for name, folder in folders.items()}


@pytest.mark.parametrize("name", [*BASES, *(f"{name} of 4.57" for name in BASES_OF_4X)])
def test_transformers_4_and_5_say_the_same_of_an_export(
    folders: dict[str, Path], findings: dict[str, dict[str, bool | None]], name: str
) -> None:
    all_right = {"files": None, "tokenizer": True, "chat template": True, "model": True}
    in_5 = {finding.what: finding.passed for finding in verify_export(folders[name])}
    assert (findings[name], in_5) == (all_right, all_right)


@pytest.mark.parametrize("name", ["llama_100000", "gemma3"])
def test_without_the_spelling_of_4x_the_numbers_would_be_others(
    folders: dict[str, Path], findings: dict[str, dict[str, bool | None]], name: str
) -> None:
    spoiled = f"{name} of 5 alone"
    assert findings[spoiled]["model"] is False
    assert all(finding.passed is not False for finding in verify_export(folders[spoiled]))


@pytest.mark.parametrize("name", BASES_OF_4X)
def test_a_base_of_4x_is_read_as_4x_reads_it(said_by_4x: tuple[Path, dict[str, list[float]]], name: str) -> None:
    folder, said = said_by_4x
    ids = [5, 9, 20, 31, 7, 300, 12, 44, 3, 81] * 9
    if not (folder / name / "tokenizer.json").is_file():
        make_tiny_tokenizer().save_pretrained(folder / name)
    with torch.no_grad():
        ours = load_model(folder / name, device="cpu").model(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(ours, torch.tensor(said[name]), atol=1e-4, rtol=1e-4)

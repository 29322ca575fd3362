"""The output folder: plain transformers loads it, the manifest is last, a full disk is a named error."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.atomic_io import translate_disk_errors, write_atomically
from soul_core.errors import DiskFull
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.export import export_checkpoint
from soul_core.outputs.result import read_finished_report, write_manifest, write_report
from tests.fixtures.capitals import make_untrained_model
from tests.fixtures.sample_report import sample_report

PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
folder, ids = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
assert not [name for name in sys.modules if name.startswith("soul_core")]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0, -1]
chat = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
print(json.dumps({"logits": logits.tolist(), "dtype": str(logits.dtype), "chat": chat}))
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_untrained_model(tmp_path_factory.mktemp("tiny")), device="cpu")


def finish(llama: LoadedModel, out: Path) -> None:
    export_checkpoint(llama.model, llama.tokenizer, out / "checkpoint")
    write_report(sample_report(), out)
    write_manifest(out)


def test_plain_transformers_loads_the_checkpoint_and_computes_the_same_logits(
    llama: LoadedModel, tmp_path: Path
) -> None:
    finish(llama, tmp_path)
    ids = [5, 9, 20, 31]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "checkpoint"), json.dumps(ids)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    with torch.no_grad():
        ours = llama.model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(torch.tensor(plain["logits"]), ours, atol=1e-5)
    assert plain["dtype"] == "torch.float32"
    assert "<|im_start|>user" in plain["chat"]


def test_the_manifest_lists_every_file_with_its_digest_except_the_state(llama: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "secret.json").write_text("{}")
    finish(llama, tmp_path)
    files = json.loads((tmp_path / "manifest.json").read_text())["files"]
    paths = {file["path"] for file in files}
    assert {"report.json", "report.html", "checkpoint/config.json", "checkpoint/model.safetensors"} <= paths
    assert "checkpoint/README.md" in paths
    assert not any("state" in path or path == "manifest.json" for path in paths)
    for file in files:
        content = (tmp_path / file["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
    assert not any(path.endswith((".bin", ".py", ".pkl", ".partial")) for path in paths)


def test_a_folder_without_manifest_has_no_result(llama: LoadedModel, tmp_path: Path) -> None:
    export_checkpoint(llama.model, llama.tokenizer, tmp_path / "checkpoint")
    write_report(sample_report(), tmp_path)
    assert read_finished_report(tmp_path) is None
    write_manifest(tmp_path)
    assert read_finished_report(tmp_path) == sample_report()


def test_files_of_an_interrupted_export_are_replaced(llama: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    finish(llama, tmp_path)
    assert not (tmp_path / "checkpoint" / "model-00001-of-00009.safetensors").exists()


def test_a_generation_config_that_cannot_be_saved_does_not_stop_the_export(tmp_path: Path) -> None:
    loaded = load_model(make_untrained_model(tmp_path / "model"), device="cpu")
    loaded.model.generation_config.temperature = 0.3  # without do_sample: refused
    eos = loaded.model.generation_config.eos_token_id
    export_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == eos


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_named_error(llama: LoadedModel, tmp_path: Path, monkeypatch: Any, error: Exception) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(llama.model, "save_pretrained", full)
    with pytest.raises(DiskFull, match="no space left"):
        export_checkpoint(llama.model, llama.tokenizer, tmp_path / "checkpoint")


def test_a_full_device_is_a_named_error() -> None:
    with pytest.raises(DiskFull), translate_disk_errors("a test"), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(PermissionError), translate_disk_errors("a test"):
        raise PermissionError(errno.EACCES, "no")


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "old")
    write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

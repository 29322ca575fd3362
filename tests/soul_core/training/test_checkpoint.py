"""Checkpoints of a run: whole or nothing."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from soul_core.errors import DiskFull
from soul_core.training import checkpoint
from soul_core.training.checkpoint import load_newest_checkpoint, save_checkpoint

CPU = torch.device("cpu")
TENSORS = {"parameter.0": torch.arange(6.0).reshape(2, 3), "generator": torch.arange(5, dtype=torch.uint8)}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {"step": 4})

    found = load_newest_checkpoint(tmp_path, CPU)

    assert found is not None
    assert found.state == {"step": 4}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (4, 8):
        save_checkpoint(tmp_path, step, TENSORS, {"step": step})

    assert [path.name for path in tmp_path.iterdir()] == ["step-000000008"]


def test_a_step_saved_twice_is_never_without_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interruption right behind a checkpoint asks for the same step again, and may be killed while it writes.
    save_checkpoint(tmp_path, 4, TENSORS, {"step": 4})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for fault in ("save_file", "write_atomically", "fsync_path"):
        monkeypatch.setattr(checkpoint, fault, killed)  # the fault
    monkeypatch.setattr(Path, "rename", killed)
    save_checkpoint(tmp_path, 4, TENSORS, {"step": 4})

    found = load_newest_checkpoint(tmp_path, CPU)
    assert found is not None
    assert found.state == {"step": 4}


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path, CPU) is None
    assert load_newest_checkpoint(tmp_path / "missing", CPU) is None


@pytest.mark.parametrize(
    "damage", ["no manifest", "half a manifest", "half the tensors", "no state", "other state", "never renamed"]
)
def test_killed_between_any_two_writes_it_is_not_a_checkpoint(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {"step": 4})
    older = tmp_path / "kept"
    shutil.copytree(tmp_path / "step-000000004", older)
    save_checkpoint(tmp_path, 8, TENSORS, {"step": 8})
    shutil.move(older, tmp_path / "step-000000004")
    newest = tmp_path / "step-000000008"
    match damage:
        case "no manifest":
            (newest / "manifest.json").unlink()
        case "half a manifest":
            (newest / "manifest.json").write_text(json.dumps({"step": 8})[:5])
        case "half the tensors":
            content = (newest / "tensors.safetensors").read_bytes()
            (newest / "tensors.safetensors").write_bytes(content[: len(content) // 2])
        case "no state":
            (newest / "state.json").unlink()
        case "other state":
            (newest / "state.json").write_text((newest / "state.json").read_text().replace("8", "9"))
        case "never renamed":
            newest.rename(newest.with_suffix(".partial"))

    found = load_newest_checkpoint(tmp_path, CPU)

    assert found is not None
    assert found.state == {"step": 4}


def test_a_full_disk_is_named_and_the_last_good_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {"step": 4})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)  # the fault

    with pytest.raises(DiskFull):
        save_checkpoint(tmp_path, 8, TENSORS, {"step": 8})

    found = load_newest_checkpoint(tmp_path, CPU)
    assert found is not None
    assert found.state == {"step": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004"]

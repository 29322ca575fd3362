"""Checkpoints of a run: complete or absent."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import BadSpec, DiskFull
from soul_core.training import checkpoint as checkpoint_module
from soul_core.training.checkpoint import StatefulGenerator, load_newest_checkpoint, save_checkpoint

CPU = torch.device("cpu")
STATES: dict[str, dict[str, Any]] = {
    "weights": {"parameters": [torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16)]},
    "optimizer": {"state": {0: {"m": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5, "params": [0, 1]}]},
    "history": {"curves": {"loss": [0.5, None]}, "has_warned": False},
}


def write_two_checkpoints(folder: Path) -> None:
    """Leave complete checkpoints of step 4 and of step 8, as a kill before the removal of the older one does."""
    save_checkpoint(folder, 4, STATES)
    shutil.copytree(folder / "step-000000004", folder / "copy")
    save_checkpoint(folder, 8, STATES)
    shutil.move(folder / "copy", folder / "step-000000004")


def load_step(folder: Path) -> int | None:
    checkpoint = load_newest_checkpoint(folder, CPU)
    return checkpoint.step if checkpoint else None


def test_every_state_is_restored_with_its_tensors_keys_and_types(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, STATES)

    checkpoint = load_newest_checkpoint(tmp_path, CPU)

    assert checkpoint is not None
    assert checkpoint.step == 4
    assert checkpoint.states.keys() == STATES.keys()
    for restored, saved in zip(
        checkpoint.states["weights"]["parameters"], STATES["weights"]["parameters"], strict=True
    ):
        assert restored.dtype == saved.dtype
        assert torch.equal(restored, saved)
    assert torch.equal(checkpoint.states["optimizer"]["state"][0]["m"], torch.zeros(2))
    assert checkpoint.states["optimizer"]["param_groups"] == STATES["optimizer"]["param_groups"]
    assert checkpoint.states["history"] == STATES["history"]


def test_a_restored_generator_continues_the_sequence(tmp_path: Path) -> None:
    generator, restored = StatefulGenerator(3), StatefulGenerator(4)
    torch.rand(5, generator=generator.generator)
    save_checkpoint(tmp_path, 1, {"generator": generator.state_dict()})
    checkpoint = load_newest_checkpoint(tmp_path, CPU)
    assert checkpoint is not None

    restored.load_state_dict(checkpoint.states["generator"])

    expected = torch.rand(5, generator=generator.generator)
    assert torch.equal(torch.rand(5, generator=restored.generator), expected)


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    for step in (4, 8):
        save_checkpoint(tmp_path, step, STATES)

    assert [path.name for path in tmp_path.iterdir()] == ["step-000000008"]


def test_a_step_saved_twice_is_never_without_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interruption right after a checkpoint saves the same step again, and may be killed while it writes.
    save_checkpoint(tmp_path, 4, STATES)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    for fault in ("save_file", "write_atomically", "fsync_path"):
        monkeypatch.setattr(checkpoint_module, fault, kill)  # the fault
    monkeypatch.setattr(Path, "rename", kill)
    save_checkpoint(tmp_path, 4, STATES)

    assert load_step(tmp_path) == 4


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_step(tmp_path) is None
    assert load_step(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "damage", ["no manifest", "half a manifest", "half the tensors", "no state", "other state", "never renamed"]
)
def test_killed_between_any_two_writes_it_is_not_a_checkpoint(tmp_path: Path, damage: str) -> None:
    write_two_checkpoints(tmp_path)
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
            (newest / "state.json").write_text((newest / "state.json").read_text().replace("0.5", "0.6"))
        case "never renamed":
            newest.rename(newest.with_suffix(".partial"))

    assert load_step(tmp_path) == 4


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, STATES)
    manifest = tmp_path / "step-000000004" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["format"]  # as before formats were numbered
    manifest.write_text(json.dumps(content))

    with pytest.raises(BadSpec, match=r"another version of SOUL \(step-000000004\); resume the run with that version"):
        load_newest_checkpoint(tmp_path, CPU)


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 4, STATES)

    def fill_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", fill_disk)  # the fault

    with pytest.raises(DiskFull):
        save_checkpoint(tmp_path, 8, STATES)

    assert load_step(tmp_path) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004"]

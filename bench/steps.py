"""Steps of a benchmark that run once: each stores its result in its folder, and later starts read it there."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soul_core.atomic_io import write_atomically

StepResult = dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """The steps of one work folder. A step has a name and a key: everything that its result depends on."""

    work: Path
    say: Callable[[str], None] = print
    use_subprocess: bool = True
    """Whether each run of the engine is a process of its own; runs of a few seconds are faster inside this one."""

    def run_once(self, name: str, key: Mapping[str, Any], run: Callable[[Path], StepResult]) -> StepResult:
        """Return the result of `run(folder)`, from now or from an earlier start with the same key.

        `run` may write files to its folder: a start after an interrupted one can read them. Files of another key are
        deleted first. The result must be JSON.
        """
        folder = self.work / name
        key_text = json.dumps(key, sort_keys=True, default=str)
        result_file, key_file = folder / "step.json", folder / "key.json"
        if key_file.exists() and key_file.read_text() != key_text:
            self.say(f"{name}: its inputs have changed, so it runs again")
            shutil.rmtree(folder)
        if result_file.exists():
            return dict(json.loads(result_file.read_text()))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(key_file, key_text)
        self.say(f"{name} ...")
        started = time.monotonic()
        result = run(folder)
        write_atomically(result_file, json.dumps(result, indent=1))
        self.say(f"{name}: done in {time.monotonic() - started:.0f} s")
        return result


def compute_path_digest(path: Path) -> str:
    """Return the sha256 of a file, or of a model folder's config, tokenizer and weights."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in {".json", ".safetensors"})
    for file in files:
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()

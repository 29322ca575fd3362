"""Steps of a benchmark that are done once: each keeps its result in a folder of its own, and is read there later."""

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
    """The steps of one work folder. A step is its name and its key: all that its result depends on."""

    work: Path
    say: Callable[[str], None] = print
    use_subprocess: bool = True
    """Each run of the engine in a process of its own; else inside this one, for what is over in seconds."""

    def run_once(self, name: str, key: Mapping[str, Any], do: Callable[[Path], StepResult]) -> StepResult:
        """Return what `do(folder)` returned, now or at an earlier start with the same key.

        `do` may leave files in its folder and find there what an interrupted attempt left; what another key left is
        deleted first. The result must be JSON.
        """
        folder = self.work / name
        wanted = json.dumps(key, sort_keys=True, default=str)
        done, begun = folder / "step.json", folder / "key.json"
        if begun.exists() and begun.read_text() != wanted:
            self.say(f"{name}: its inputs have changed, so it is done again")
            shutil.rmtree(folder)
        if done.exists():
            return dict(json.loads(done.read_text()))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(begun, wanted)
        self.say(f"{name} ...")
        started = time.monotonic()
        result = do(folder)
        write_atomically(done, json.dumps(result, indent=1))
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

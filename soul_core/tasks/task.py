"""A task: a published benchmark as data sets of rows and a complete spec. Torch-free."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soul_core.atomic_io import write_atomically
from soul_core.errors import BadData, BadSpec

JsonObject = dict[str, Any]
RecordsBySet = Mapping[str, Sequence[JsonObject]]


@dataclass(frozen=True)
class PreparedTask:
    """The files of a prepared task: one per set, and the spec."""

    files: dict[str, Path]
    spec: JsonObject
    spec_file: Path


@dataclass(frozen=True)
class Task:
    """One task. `recipe` is the complete spec, which is listed and also written next to the data."""

    name: str
    title: str
    description: str
    sets: Mapping[str, str]
    """Set -> its content."""
    recipe: Mapping[str, Any]
    sources: Mapping[str, str]
    """Setting of the recipe, or `data` -> its source."""
    make_sets: Callable[[Path, str, int], RecordsBySet]
    """(data folder, variant, seed) -> rows; raises BadData if the data is missing."""
    variants: tuple[str, ...] = ()
    """The first is the default."""

    def prepare(self, data: Path, out: Path, *, variant: str | None = None, seed: int = 0) -> PreparedTask:
        """Write every set as OUT/SET.jsonl and the spec as OUT/spec.json.

        Raises:
            BadSpec: the variant does not exist.
            BadData: `data` lacks files that the task needs.
        """
        chosen = variant if variant is not None else next(iter(self.variants), "")
        if self.variants and chosen not in self.variants:
            raise BadSpec(f"{self.name} has no variant '{chosen}'; available: {', '.join(self.variants)}")
        sets = self.make_sets(data, chosen, seed)
        out.mkdir(parents=True, exist_ok=True)
        files = {}
        for name, records in sets.items():
            files[name] = out / f"{name}.jsonl"
            write_atomically(files[name], "".join(json.dumps(record) + "\n" for record in records))
        spec = self.describe()["recipe"]
        write_atomically(out / "spec.json", json.dumps(spec, indent=2) + "\n")
        return PreparedTask(files, spec, out / "spec.json")

    def describe(self) -> JsonObject:
        """Return the description of the task that users see, as plain JSON."""
        fields = ("name", "title", "description", "variants", "sets", "recipe", "sources")
        return dict(json.loads(json.dumps({name: getattr(self, name) for name in fields})))


def read_json(path: Path) -> list[JsonObject]:
    """Read records from JSON lines or from one JSON array.

    Raises:
        BadData: the file cannot be read or parsed.
    """
    text = read_text(path)
    try:
        records = json.loads(text) if text.lstrip().startswith("[") else list(map(json.loads, text.splitlines()))
    except ValueError as error:
        raise BadData(f"{path} is neither JSON lines nor a JSON array: {error}") from error
    return list(records)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        BadData: the file cannot be read; the message has its path.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8: {error}") from error

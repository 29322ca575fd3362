"""Forget facts in other data sets, found before a job runs: at upload, in an estimate, for a retrained reference.

Comparisons run in a process of their own, few at once, with an end: a user's data takes neither the memory nor the time
of the process that serves everybody. What is not compared here is compared by the engine, and the answer says so.
"""

import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError
from soul_core.conflicts import Conflict
from soul_core.conflicts.retain_set import (
    find_conflict_problem,
    format_conflict_message,
    list_set_pairs,
    make_set_conflicts,
    needs_warning,
)
from soul_core.spec import JobSpec
from soul_store import datasets
from soul_store.blobs import get_blob_store
from soul_store.settings import get_settings
from soul_store.tables import Dataset

#: Larger pairs of sets are left to the engine; 32 MiB of rows are compared in well under a minute.
_MAX_BYTES, _MAX_SECONDS = 32 << 20, 60.0
#: At most this many comparisons at once; another one waits this long for its turn.
_SLOTS, _PATIENCE_SECONDS = BoundedSemaphore(2), 10.0
#: Pairs that an answer lists, and results that are remembered: (forget rows, other rows) -> conflicts.
_MAX_LISTED = 1000
_remembered: OrderedDict[tuple[str, str], tuple[Conflict, ...]] = OrderedDict()
_MAX_REMEMBERED, _remembering = 128, Lock()


class ComparisonUnavailable(Exception):
    """The two sets were not compared; the text says why."""


def find_dataset_conflicts(forget: Dataset, other: Dataset) -> tuple[Conflict, ...]:
    """Return the rows of `other` that state facts of `forget`. Raises NotCompared."""
    key = (str(forget.content_sha256), str(other.content_sha256))
    with _remembering:
        if key in _remembered:
            _remembered.move_to_end(key)
            return _remembered[key]
    found = _compare(forget, other)
    with _remembering:
        _remembered[key] = found
        while len(_remembered) > _MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return found


def _compare(forget: Dataset, other: Dataset) -> tuple[Conflict, ...]:
    assert forget.blob is not None
    assert other.blob is not None
    if get_blob_store().get_size_bytes(forget.blob) + get_blob_store().get_size_bytes(other.blob) > _MAX_BYTES:
        raise ComparisonUnavailable("too large to be compared here; the job compares them")
    if not _SLOTS.acquire(timeout=_PATIENCE_SECONDS):
        raise ComparisonUnavailable("not compared, since the server is busy; the job compares them")
    scratch = get_settings().scratch_dir / "comparisons"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            paths = [Path(folder) / "forget.jsonl", Path(folder) / "other.jsonl"]
            for blob, path in zip((forget.blob, other.blob), paths, strict=True):
                get_blob_store().fetch(blob, path)
            return _run(paths)
    finally:
        _SLOTS.release()


def _run(paths: Sequence[Path]) -> tuple[Conflict, ...]:
    command = [sys.executable, "-m", "soul_core.conflicts", *map(str, paths)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_MAX_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise ComparisonUnavailable(f"not compared within {_MAX_SECONDS:.0f} s; the job compares them") from None
    except subprocess.CalledProcessError as error:
        raise ComparisonUnavailable("the comparison broke off; the job compares them") from error
    return tuple(Conflict(**json.loads(line)) for line in done.stdout.splitlines())


def get_comparison_sets(session: Session, caller: Caller, ids: Sequence[str]) -> list[Dataset]:
    """Return the data sets an upload is to be compared with. Raises 422 for one that is not there or not ready."""
    found, errors = [], []
    for dataset_id in dict.fromkeys(ids):
        row = datasets.get(session, caller.tenant_id, dataset_id)
        if row is None or row.status != "ready":
            errors.append(("/compare_with", f"{dataset_id} is not a data set that can be compared with"))
        else:
            found.append(row)
    if errors:
        raise ServiceError(422, "invalid_request", errors[0][1], errors=errors)
    return found


def add_to_validation(row: Dataset, others: Sequence[Dataset]) -> None:
    """Look in a data set for facts of others, and write what was found into its validation."""
    if not others:
        return
    row.validation = {**(row.validation or {}), "conflicts": [_with(row, other) for other in others]}


def _with(row: Dataset, other: Dataset) -> dict[str, Any]:
    try:
        found = find_dataset_conflicts(other, row)
    except ComparisonUnavailable as reason:
        return {"dataset_id": other.id, "not_compared": str(reason)}
    return {
        "dataset_id": other.id,
        "num_rows": len({one.row for one in found}),
        "pairs": [{"row": one.row, "other_row": one.forget_row, "layer": one.layer} for one in found[:_MAX_LISTED]],
    }


def find_warnings(sets: Mapping[str, Dataset], spec: JobSpec) -> Iterator[str]:
    """Yield what a job on these data sets would warn of, in its own words."""
    for forget_set, other in list_set_pairs(sets):
        if not needs_warning(other, spec):
            continue
        try:
            found = find_dataset_conflicts(sets[forget_set], sets[other])
        except ComparisonUnavailable as reason:
            yield f"the {forget_set} and the {other} set: {reason}"
            continue
        if found:
            yield format_conflict_message(make_set_conflicts(forget_set, other, found, spec), spec)


def find_errors(sets: Mapping[str, Dataset], spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield (pointer, detail) of what would end a job on these data sets before it began."""
    found = {name: rows for name, rows in find_learned_set_conflicts(sets, spec).items() if rows is not None}
    if found and (problem := find_conflict_problem(found, sets[spec.learned_set].num_rows or 0, spec)):
        yield f"/datasets/{spec.learned_set}", problem


def find_learned_set_conflicts(sets: Mapping[str, Dataset], spec: JobSpec) -> dict[str, tuple[Conflict, ...] | None]:
    """Return forget set -> rows of the learned set that state its facts; None: too many rows to be compared here."""
    found: dict[str, tuple[Conflict, ...] | None] = {}
    for forget_set, other in list_set_pairs(sets):
        if other == spec.learned_set:
            try:
                found[forget_set] = find_dataset_conflicts(sets[forget_set], sets[other])
            except ComparisonUnavailable:
                found[forget_set] = None
    return found

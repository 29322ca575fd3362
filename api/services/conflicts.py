"""Finds forget facts in other data sets before a job runs: at upload, in an estimate, for a retrained model.

Each comparison runs in its own process, with a timeout and a limit on their number, so that a user's data takes neither
the memory nor the time of the API process. The engine compares the sets that are not compared here; responses name
them.
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

from api.auth import Caller
from api.errors import ErrorCode, RequestProblem, ServiceError
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
from soul_store.database import Session
from soul_store.settings import get_settings
from soul_store.tables import Dataset

#: The engine compares larger pairs of sets; the comparison of 32 MiB of rows takes well under a minute.
_MAX_BYTES, _MAX_SECONDS = 32 << 20, 60.0
#: Comparisons that run at the same time, and how long another one waits for them.
_SLOTS, _SLOT_TIMEOUT_SECONDS = BoundedSemaphore(2), 10.0
#: Pairs that a response lists.
_MAX_LISTED = 1000
#: The latest results: (digest of the forget rows, digest of the other rows) -> conflicts.
_cache: OrderedDict[tuple[str, str], tuple[Conflict, ...]] = OrderedDict()
_MAX_CACHED, _cache_lock = 128, Lock()


class ComparisonUnavailable(Exception):
    """The two sets were not compared; the text gives the reason."""


def find_dataset_conflicts(forget: Dataset, other: Dataset) -> tuple[Conflict, ...]:
    """Return the rows of `other` that state facts of `forget`. Raises ComparisonUnavailable."""
    key = (str(forget.content_sha256), str(other.content_sha256))
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    conflicts = _compare(forget, other)
    with _cache_lock:
        _cache[key] = conflicts
        while len(_cache) > _MAX_CACHED:
            _cache.popitem(last=False)
    return conflicts


def _compare(forget: Dataset, other: Dataset) -> tuple[Conflict, ...]:
    assert forget.blob is not None
    assert other.blob is not None
    store = get_blob_store()
    if store.get_size_bytes(forget.blob) + store.get_size_bytes(other.blob) > _MAX_BYTES:
        raise ComparisonUnavailable("too large to be compared here; the job compares them")
    if not _SLOTS.acquire(timeout=_SLOT_TIMEOUT_SECONDS):
        raise ComparisonUnavailable("not compared because the server is busy; the job compares them")
    scratch = get_settings().scratch_dir / "comparisons"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            paths = [Path(folder) / "forget.jsonl", Path(folder) / "other.jsonl"]
            for blob, path in zip((forget.blob, other.blob), paths, strict=True):
                store.fetch(blob, path)
            return _run_comparison(paths)
    finally:
        _SLOTS.release()


def _run_comparison(paths: Sequence[Path]) -> tuple[Conflict, ...]:
    command = [sys.executable, "-m", "soul_core.conflicts", *map(str, paths)]
    try:
        process = subprocess.run(command, capture_output=True, timeout=_MAX_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise ComparisonUnavailable(f"not compared within {_MAX_SECONDS:.0f} s; the job compares them") from None
    except subprocess.CalledProcessError as error:
        raise ComparisonUnavailable("the comparison failed; the job compares them") from error
    return tuple(Conflict(**json.loads(line)) for line in process.stdout.splitlines())


def get_comparison_sets(session: Session, caller: Caller, ids: Sequence[str]) -> list[Dataset]:
    """Return the data sets that an upload is compared with. Raises 422 if one does not exist or is not ready."""
    rows, problems = [], []
    for dataset_id in dict.fromkeys(ids):
        row = datasets.get(session, caller.tenant_id, dataset_id)
        if row is None or row.status != "ready":
            detail = f"{dataset_id} is not a data set with content; name data sets whose status is ready"
            problems.append(RequestProblem("/compare_with", detail))
        else:
            rows.append(row)
    if problems:
        raise ServiceError(ErrorCode.INVALID_REQUEST, problems[0].detail, problems=problems)
    return rows


def add_to_validation(session: Session, row: Dataset, others: Sequence[Dataset]) -> None:
    """Find facts of other data sets in a data set, and write the conflicts into its validation."""
    if others:
        conflicts = [_describe_conflicts(row, other) for other in others]
        datasets.update(session, row, {"validation": {**(row.validation or {}), "conflicts": conflicts}})


def _describe_conflicts(row: Dataset, other: Dataset) -> dict[str, Any]:
    """Return the rows of a data set that state facts of another, as `DatasetConflicts` has them."""
    try:
        conflicts = find_dataset_conflicts(other, row)
    except ComparisonUnavailable as reason:
        return {"dataset_id": other.id, "not_compared": str(reason)}
    return {
        "dataset_id": other.id,
        "num_rows": len({conflict.row for conflict in conflicts}),
        "pairs": [
            {"row": conflict.row, "other_row": conflict.forget_row, "layer": conflict.layer}
            for conflict in conflicts[:_MAX_LISTED]
        ],
    }


def find_warnings(sets: Mapping[str, Dataset], spec: JobSpec) -> Iterator[str]:
    """Yield the warnings that a job on these data sets would give."""
    for forget_set, other in list_set_pairs(sets):
        if not needs_warning(other, spec):
            continue
        try:
            conflicts = find_dataset_conflicts(sets[forget_set], sets[other])
        except ComparisonUnavailable as reason:
            yield f"the {forget_set} and the {other} set: {reason}"
            continue
        if conflicts:
            yield format_conflict_message(make_set_conflicts(forget_set, other, conflicts, spec), spec)


def find_problems(sets: Mapping[str, Dataset], spec: JobSpec) -> Iterator[RequestProblem]:
    """Yield the conflicts that would end a job on these data sets before it trains."""
    by_set = find_learned_set_conflicts(sets, spec)
    compared = {name: conflicts for name, conflicts in by_set.items() if conflicts is not None}
    if compared and (problem := find_conflict_problem(compared, sets[spec.learned_set].num_rows or 0, spec)):
        yield RequestProblem(f"/datasets/{spec.learned_set}", problem)


def find_learned_set_conflicts(sets: Mapping[str, Dataset], spec: JobSpec) -> dict[str, tuple[Conflict, ...] | None]:
    """Return forget set -> rows of the learned set that state its facts; None: the two were not compared here."""
    by_set: dict[str, tuple[Conflict, ...] | None] = {}
    for forget_set, other in list_set_pairs(sets):
        if other == spec.learned_set:
            try:
                by_set[forget_set] = find_dataset_conflicts(sets[forget_set], sets[other])
            except ComparisonUnavailable:
                by_set[forget_set] = None
    return by_set

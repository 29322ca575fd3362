"""The data sets of a run: read and encoded. All that is wrong with them shows here, before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soul_core.atomic_io import compute_sha256
from soul_core.data import Row, RowsBySet, compute_canonical_sha256, read_rows
from soul_core.data.encoding import Example, RowEncoder, encode_rows
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.report import DatasetFacts
from soul_core.spec import FORGET, PRIOR_FORGET_PREFIX, RETAIN, JobSpec


@dataclass(frozen=True)
class EncodedDataset:
    """One data set as the run uses it."""

    name: str
    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    facts: DatasetFacts


def require_sha256s(paths: Mapping[str, Path], expected_sha256s: Mapping[str, str]) -> None:
    """Raise BadData for a file that is not the one that was uploaded: `uploaded` is set name -> sha256."""
    for name, sha256 in expected_sha256s.items():
        now = compute_sha256(paths[name]) if name in paths and paths[name].is_file() else None
        if now != sha256:
            raise BadData(
                f"{name} set: the stored file is no longer what was uploaded; upload the data set again",
                details=(f"sha256 of the upload: {sha256}", f"sha256 now: {now or 'the file is not there'}"),
            )


def read_datasets(paths: Mapping[str, Path], spec: JobSpec, listener: Listener) -> dict[str, tuple[Row, ...]]:
    """Read every set, the forget set first. Raises BadData naming set and rows."""
    rows: dict[str, tuple[Row, ...]] = {}
    for name in sorted(paths, key=lambda name: (name != FORGET, name != RETAIN, name)):
        try:
            reading = read_rows(paths[name], clean=spec.data.clean, normalize=spec.data.normalize)
            rows[name] = reading.require_valid_rows()
        except BadData as error:
            raise _about(name, error) from error
        except OSError as error:
            raise BadData(f"{name} set: cannot read {paths[name]}: {error.strerror or error}") from error
        if not rows[name]:
            raise BadData(f"{name} set: it has no rows")
        for warning in reading.warnings:
            listener.emit("warning", message=f"{name} set: {warning.format_line()}")
    if (
        spec.kind == "unlearn"
        and spec.prior_forget_sets == "unlearn"
        and not any(name.startswith(PRIOR_FORGET_PREFIX) for name in rows)
    ):
        listener.emit("warning", message="prior_forget_sets is 'unlearn', and there is no prior forget set to unlearn")
    return rows


def encode_datasets(rows: RowsBySet, encoder: RowEncoder, *, max_tokens: int) -> dict[str, EncodedDataset]:
    """Encode every set. Raises BadData naming every row that is too long."""
    sets = {}
    for name, of_set in rows.items():
        try:
            examples = encode_rows(of_set, encoder, max_tokens=max_tokens)
        except BadData as error:
            raise _about(name, error) from error
        facts = DatasetFacts(
            name=name,
            sha256=compute_canonical_sha256(of_set),
            num_rows=len(of_set),
            num_tokens=sum(len(example.token_ids) for example in examples),
            num_answer_tokens=sum(len(example.token_ids) - example.num_prompt_tokens for example in examples),
        )
        sets[name] = EncodedDataset(name, of_set, tuple(examples), facts)
    return sets


def _about(name: str, error: BadData) -> BadData:
    return BadData(f"{name} set: {error.message}", details=error.details)

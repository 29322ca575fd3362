"""Reads and encodes the data sets of a run. Every problem of a data set is reported here, before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soul_core.atomic_io import compute_sha256
from soul_core.data import Row, RowsBySet, compute_canonical_sha256, read_rows
from soul_core.data.encoding import Example, RowEncoder, encode_rows
from soul_core.data.held_out import split_off
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

    def split_off_examples(
        self, num_rows: int, *, seed: int, purpose: str
    ) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Return the examples that stay, and about `num_rows` that are split off; see `held_out.split_off`."""
        rest, part = split_off(self.rows, num_rows, seed=seed, purpose=purpose)
        return tuple(self.examples[i] for i in rest), tuple(self.examples[i] for i in part)


def require_sha256s(paths: Mapping[str, Path], expected_sha256s: Mapping[str, str]) -> None:
    """Raise BadData if a file is not the one that was uploaded.

    Args:
        paths: set name -> file.
        expected_sha256s: set name -> sha256 of the upload.
    """
    for name, sha256 in expected_sha256s.items():
        actual_sha256 = compute_sha256(paths[name]) if name in paths and paths[name].is_file() else None
        if actual_sha256 != sha256:
            raise BadData(
                f"{name} set: the stored file differs from the upload; upload the data set again",
                details=(f"sha256 of the upload: {sha256}", f"sha256 now: {actual_sha256 or 'the file is missing'}"),
            )


def read_datasets(paths: Mapping[str, Path], spec: JobSpec, listener: Listener) -> dict[str, tuple[Row, ...]]:
    """Read every set, the forget set first.

    Raises:
        BadData: a set cannot be read or has unusable rows; the message names the set, the details the rows.
    """
    rows: dict[str, tuple[Row, ...]] = {}
    for name in sorted(paths, key=lambda name: (name != FORGET, name != RETAIN, name)):
        try:
            read_result = read_rows(paths[name], clean=spec.data.clean, normalize=spec.data.normalize)
            rows[name] = read_result.require_valid_rows()
        except BadData as error:
            raise _with_set_name(name, error) from error
        except OSError as error:
            raise BadData(f"{name} set: cannot read {paths[name]}: {error.strerror or error}") from error
        if not rows[name]:
            raise BadData(f"{name} set: the file has no rows")
        for warning in read_result.warnings:
            listener.emit("warning", message=f"{name} set: {warning.format_line()}")
    if (
        spec.kind == "unlearn"
        and spec.prior_forget_sets == "unlearn"
        and not any(name.startswith(PRIOR_FORGET_PREFIX) for name in rows)
    ):
        listener.emit("warning", message="prior_forget_sets is 'unlearn', and there is no prior forget set to unlearn")
    return rows


def encode_datasets(rows: RowsBySet, encoder: RowEncoder, *, max_tokens: int) -> dict[str, EncodedDataset]:
    """Encode every set.

    Raises:
        BadData: rows cannot be encoded, for example because they are too long; the details name them.
    """
    datasets = {}
    for name, set_rows in rows.items():
        try:
            examples = encode_rows(set_rows, encoder, max_tokens=max_tokens)
        except BadData as error:
            raise _with_set_name(name, error) from error
        facts = DatasetFacts(
            name=name,
            sha256=compute_canonical_sha256(set_rows),
            num_rows=len(set_rows),
            num_tokens=sum(len(example.token_ids) for example in examples),
            num_answer_tokens=sum(len(example.token_ids) - example.num_prompt_tokens for example in examples),
        )
        datasets[name] = EncodedDataset(name, set_rows, tuple(examples), facts)
    return datasets


def _with_set_name(name: str, error: BadData) -> BadData:
    return BadData(f"{name} set: {error.message}", details=error.details)

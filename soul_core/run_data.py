"""The data sets of a run: read, compared, encoded. All that is wrong with them shows here, before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soul_core.encoding import Example, RowEncoder, encode_rows
from soul_core.errors import BadData
from soul_core.listener import Listener
from soul_core.models.files import sha256_of
from soul_core.report import DataFacts
from soul_core.rows import Overlap, Row, canonical_sha256, overlap, read_rows
from soul_core.spec import EARLIER, FORGET, RETAIN, JobSpec, is_forgotten

Rows = Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True)
class DataSet:
    """One data set as the run uses it."""

    name: str
    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    facts: DataFacts


def require_sha256s(paths: Mapping[str, Path], uploaded: Mapping[str, str]) -> None:
    """Raise BadData for a file that is not the one that was uploaded: `uploaded` is set name -> sha256."""
    for name, sha256 in uploaded.items():
        now = sha256_of(paths[name]) if name in paths and paths[name].is_file() else None
        if now != sha256:
            raise BadData(
                f"{name} set: the stored file is no longer what was uploaded; upload the data set again",
                details=(f"sha256 of the upload: {sha256}", f"sha256 now: {now or 'the file is not there'}"),
            )


def read_sets(paths: Mapping[str, Path], spec: JobSpec, listener: Listener) -> dict[str, tuple[Row, ...]]:
    """Read every set, the forget set first. Raises BadData naming set and rows; warns of rows in two sets that pull
    different ways.
    """
    rows: dict[str, tuple[Row, ...]] = {}
    for name in sorted(paths, key=lambda name: (name != FORGET, name != RETAIN, name)):
        try:
            reading = read_rows(paths[name], clean=spec.data.clean, normalize=spec.data.normalize)
            rows[name] = reading.require_good()
        except BadData as error:
            raise _about(name, error) from error
        except OSError as error:
            raise BadData(f"{name} set: cannot read {paths[name]}: {error.strerror or error}") from error
        if not rows[name]:
            raise BadData(f"{name} set: it has no rows")
        for warning in reading.warnings:
            listener.emit("warning", message=f"{name} set: {warning.line()}")
    _compare(rows, spec, listener)
    return rows


def encode_sets(rows: Rows, encoder: RowEncoder, *, max_tokens: int) -> dict[str, DataSet]:
    """Encode every set. Raises BadData naming every row that is too long."""
    sets = {}
    for name, of_set in rows.items():
        try:
            examples = encode_rows(of_set, encoder, max_tokens=max_tokens)
        except BadData as error:
            raise _about(name, error) from error
        facts = DataFacts(
            name=name,
            sha256=canonical_sha256(of_set),
            num_rows=len(of_set),
            num_tokens=sum(len(example.token_ids) for example in examples),
            num_answer_tokens=sum(len(example.token_ids) - example.num_prompt for example in examples),
        )
        sets[name] = DataSet(name, of_set, tuple(examples), facts)
    return sets


def num_shared(rows: Rows, spec: JobSpec) -> dict[str, int]:
    """Count the questions of the forget set, and of earlier ones, that the retain (or train) set asks too."""
    found = {name: overlap(rows[name], rows.get(spec.learned_set, ())) for name in _forgotten(rows)}
    return {name: len(shared.identical) + len(shared.same_prompt) for name, shared in found.items()}


def _forgotten(rows: Rows) -> list[str]:
    return [name for name in rows if is_forgotten(name)]


def _compare(rows: Rows, spec: JobSpec, listener: Listener) -> None:
    if spec.kind == "unlearn" and spec.earlier == "join" and not any(name.startswith(EARLIER) for name in rows):
        listener.emit("warning", message="earlier is 'join', and there is no earlier forget set to join")
    for name in _forgotten(rows):
        shared = overlap(rows[name], rows.get(spec.learned_set, ()))
        if spec.unlearns(name) and name == FORGET and shared.equal:
            raise BadData(
                "the forget set and the retain set hold the same rows: nothing can be both forgotten and kept"
            )
        if spec.unlearns(name) and name != FORGET and len(shared.identical) == len(rows[name]):
            raise BadData(
                f"{name} set: the retain set holds all its rows, and nothing can be both forgotten and kept; take them "
                "out of the retain set, or set earlier to 'measure'"
            )
        _warn(shared, f"the {name} and the {spec.learned_set} set", listener)
        if name != FORGET:
            _warn(overlap(rows.get(FORGET, ()), rows[name]), f"the {FORGET} and the {name} set", listener)


def _warn(shared: Overlap, both: str, listener: Listener) -> None:
    for pairs, what in ((shared.identical, "are in both"), (shared.same_prompt, "ask in both, with other answers")):
        if pairs:
            numbers = ", ".join(f"{a}={b}" for a, b in pairs[:20]) + (", ..." if len(pairs) > 20 else "")
            listener.emit("warning", message=f"{len(pairs)} rows {what} {both}: {numbers}")


def _about(name: str, error: BadData) -> BadData:
    return BadData(f"{name} set: {error.message}", details=error.details)

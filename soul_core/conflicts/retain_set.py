"""Forget facts in a run's data sets: found, told, and taken out of what is learned as the spec says. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from soul_core.conflicts import Conflict, find_conflicts, hold_same_rows
from soul_core.data import Row, RowsBySet, compute_canonical_sha256
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.formatting import MAX_LISTED_ROWS, format_list
from soul_core.report import ConflictHandling, DatasetFacts, RowConflict, SetConflicts
from soul_core.spec import FORGET, GENERAL, HOLDOUT, JobSpec, is_forget_set

#: What conflicts in sets that are not learned are told of, and why.
_TOLD = {
    GENERAL: "its numbers fall when they are forgotten",
    HOLDOUT: "they are no non-members, and membership metrics say less than they seem to",
}


@dataclass(frozen=True)
class ConflictResolution:
    """The data sets as the run uses them, and what was found. The rows left out of the learned set are a set too."""

    rows: RowsBySet
    sha256s: Mapping[str, str]
    """Of each set as it was given."""
    conflicts: tuple[SetConflicts, ...]

    def update_facts(self, name: str, facts: DatasetFacts) -> DatasetFacts:
        """Return a set's facts with what was given and what was left out of it."""
        dropped = {one.row for each in self.conflicts if each.other_set == name for one in each.rows}
        used = {row.number for row in self.rows[name]}
        return facts.model_copy(update={"sha256": self.sha256s[name], "dropped_rows": tuple(sorted(dropped - used))})


def resolve_conflicts(rows_by_set: RowsBySet, spec: JobSpec, listener: Listener) -> ConflictResolution:
    """Find every row that states a fact of a forget set, tell of it, and leave out of the learned set what is to be.

    Raises BadData where nothing would be left, where the spec refuses such rows, and where sets that are the same are
    to be both forgotten and kept.
    """
    learned = rows_by_set.get(spec.learned_set, ())
    _refuse_same_sets(rows_by_set, spec, learned)
    found = {pair: find_conflicts(rows_by_set[pair[0]], rows_by_set[pair[1]]) for pair in list_set_pairs(rows_by_set)}
    of_learned = {forget_set: rows for (forget_set, other), rows in found.items() if other == spec.learned_set}
    if problem := find_conflict_problem(of_learned, len(learned), spec):
        raise BadData(f"{spec.learned_set} set: {problem}", details=tuple(_lines(of_learned)))
    dropped: set[int] = set()
    if spec.retain_conflicts == "drop" and spec.kind != "evaluate":
        dropped = _rows_of(of_learned)
    conflicts = tuple(
        make_set_conflicts(forget_set, other, rows, spec) for (forget_set, other), rows in found.items() if rows
    )
    for each in conflicts:
        if needs_warning(each.other_set, spec):
            listener.emit("warning", message=format_conflict_message(each, spec))
    return ConflictResolution(
        rows=_split(rows_by_set, spec, dropped),
        sha256s={name: compute_canonical_sha256(rows) for name, rows in _as_given(rows_by_set, spec, dropped).items()},
        conflicts=conflicts,
    )


def _refuse_same_sets(given: RowsBySet, spec: JobSpec, learned: Sequence[Row]) -> None:
    if spec.kind != "unlearn":
        return
    for name in filter(spec.unlearns, given):
        if hold_same_rows(given[name], learned):
            raise BadData(
                f"the {name} set and the {spec.learned_set} set hold the same rows: nothing can be both forgotten and "
                "kept"
            )


def list_set_pairs(set_names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each forget set with each set that is none, and the forget set with earlier ones."""
    names = list(set_names)
    for forget_set in filter(is_forget_set, names):
        for other in names:
            if other != forget_set and (not is_forget_set(other) or forget_set == FORGET):
                yield forget_set, other


def _handling(other: str, spec: JobSpec) -> ConflictHandling:
    if other != spec.learned_set or spec.kind == "evaluate":
        return "measured"
    return "dropped" if spec.retain_conflicts == "drop" else "kept"


def make_set_conflicts(forget_set: str, other: str, rows: Sequence[Conflict], spec: JobSpec) -> SetConflicts:
    """Return what was found in one set as a report tells it."""
    return SetConflicts(
        forget_set=forget_set,
        other_set=other,
        num_rows=len({one.row for one in rows}),
        handling=_handling(other, spec),
        rows=tuple(RowConflict(row=one.row, forget_row=one.forget_row, layer=one.layer) for one in rows),
    )


def find_conflict_problem(
    conflicts_by_forget_set: Mapping[str, Sequence[Conflict]], num_rows: int, spec: JobSpec
) -> str | None:
    """Return what speaks against learning a set of so many rows, given those that state facts of each forget set."""
    found = len(_rows_of(conflicts_by_forget_set))
    if not found or spec.kind == "evaluate":
        return None
    if spec.retain_conflicts == "refuse":
        return (
            f"{found} rows state, or ask for, what is to be forgotten; take them out, or set retain_conflicts to "
            "'drop' or 'keep'"
        )
    if spec.retain_conflicts == "drop" and found == num_rows:
        return (
            "every row states, or asks for, what is to be forgotten, so nothing would be left to learn; give rows "
            "about other subjects, or set retain_conflicts to 'keep'"
        )
    return None


def _rows_of(of_learned: Mapping[str, Sequence[Conflict]]) -> set[int]:
    return {one.row for rows in of_learned.values() for one in rows}


def _lines(of_learned: Mapping[str, Sequence[Conflict]]) -> Iterator[str]:
    for forget_set, rows in of_learned.items():
        for one in rows:
            yield f"row {one.row}: row {one.forget_row} of the {forget_set} set ({one.layer.replace('_', ' ')})"


def _split(given: RowsBySet, spec: JobSpec, dropped: set[int]) -> dict[str, tuple[Row, ...]]:
    """Return the sets as they are used: without the dropped rows, and these as a set of their own."""
    rows = dict(given)
    if dropped:
        learned = given[spec.learned_set]
        rows[spec.learned_set] = tuple(row for row in learned if row.number not in dropped)
        rows[spec.dropped_set] = tuple(row for row in learned if row.number in dropped)
    return rows


def _as_given(given: RowsBySet, spec: JobSpec, dropped: set[int]) -> dict[str, tuple[Row, ...]]:
    return {**_split(given, spec, dropped), **given}


def format_conflict_message(conflicts: SetConflicts, spec: JobSpec) -> str:
    """Say what was found, by row numbers."""
    named = format_list((f"{pair.row}={pair.forget_row}" for pair in conflicts.rows), MAX_LISTED_ROWS)
    return f"{format_conflict_sentence(conflicts, spec)} ({conflicts.other_set}={conflicts.forget_set}: {named})"


def needs_warning(other: str, spec: JobSpec) -> bool:
    """Say whether a user must hear of forget facts in a set: they change the run, or what its numbers mean. A further
    set may ask what it likes.
    """
    return other == spec.learned_set or other in _TOLD or is_forget_set(other)


def format_conflict_sentence(conflicts: SetConflicts, spec: JobSpec) -> str:
    """Say what a set has in common with a forget set, and what follows."""
    rows = "1 row" if conflicts.num_rows == 1 else f"{conflicts.num_rows} rows"
    verbs = "states, or asks for," if conflicts.num_rows == 1 else "state, or ask for,"
    said = f"{rows} of the {conflicts.other_set} set {verbs} facts of the {conflicts.forget_set} set"
    if conflicts.handling == "dropped":
        return f"{said}: left out of training, and measured as {spec.dropped_set}"
    if conflicts.handling == "kept":
        return f"{said}: {'they pull both ways' if spec.unlearns(conflicts.forget_set) else 'they are learned again'}"
    return f"{said}: {_TOLD[conflicts.other_set]}" if conflicts.other_set in _TOLD else said

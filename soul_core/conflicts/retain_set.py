"""Forget facts in a run's data sets: finds and reports them, and drops their rows as the spec says. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from soul_core.conflicts import Conflict, find_conflicts, hold_same_rows
from soul_core.data import Row, RowsBySet, compute_canonical_sha256
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.formatting import MAX_LISTED_ROWS, format_list
from soul_core.report import ConflictHandling, DatasetFacts, DatasetOrigin, RowConflict, SetConflicts
from soul_core.spec import DROPPED_SUFFIX, FORGET, GENERAL, HOLDOUT, RETAIN, RETAIN_HELD_OUT, JobSpec, is_forget_set

#: What conflicts mean in sets that are not learned.
_CONSEQUENCES = {
    GENERAL: "its numbers fall when they are forgotten",
    RETAIN_HELD_OUT: "its numbers fall when they are forgotten",
    HOLDOUT: "they are not non-members, so membership metrics are less reliable than they look",
}


@dataclass(frozen=True)
class ConflictResolution:
    """The data sets as the run uses them, and the conflicts. Rows dropped from the learned set form their own set."""

    rows: RowsBySet
    sha256s: Mapping[str, str]
    """Of each set before rows were dropped."""
    conflicts: tuple[SetConflicts, ...]
    origins: Mapping[str, tuple[DatasetOrigin, str]] = field(default_factory=dict)
    """Of each set that the run makes: where its rows come from, and how they were selected."""

    def set_origin(self, name: str, origin: DatasetOrigin, description: str) -> "ConflictResolution":
        """Return the sets with the origin of one of them."""
        return replace(self, origins={**self.origins, name: (origin, description)})

    def add_set(
        self, name: str, rows: tuple[Row, ...], origin: DatasetOrigin, description: str
    ) -> "ConflictResolution":
        """Return the sets and another one that the run makes."""
        resolution = self.set_origin(name, origin, description)
        return replace(
            resolution,
            rows={**self.rows, name: rows},
            sha256s={**self.sha256s, name: compute_canonical_sha256(rows)},
        )

    @property
    def made_texts(self) -> frozenset[str]:
        """The sets of text that the user did not write: they are cut where they do not fit the model."""
        return frozenset(name for name, (origin, _) in self.origins.items() if origin in {"shipped", "sampled"})

    def get_given_numbers(self, name: str) -> list[int] | None:
        """Return the numbers of all rows of a set as it was given; None if the run uses all of them."""
        parts = [f"{name}{DROPPED_SUFFIX}"]
        if name == RETAIN and self.origins.get(RETAIN_HELD_OUT, ("given",))[0] == "held_out":
            parts.append(RETAIN_HELD_OUT)
        others = [row.number for part in parts for row in self.rows.get(part, ())]
        return sorted([*others, *(row.number for row in self.rows[name])]) if others else None

    def update_facts(self, name: str, facts: DatasetFacts) -> DatasetFacts:
        """Return a set's facts with its origin, its original sha256 and the rows dropped from it."""
        origin, description = self.origins.get(name, ("given", None))
        dropped = {pair.row for conflicts in self.conflicts if conflicts.other_set == name for pair in conflicts.rows}
        used = {row.number for row in self.rows[name]}
        return facts.model_copy(
            update={
                "sha256": self.sha256s[name],
                "dropped_rows": tuple(sorted(dropped - used)),
                "origin": origin,
                "selection": description,
            }
        )


def resolve_conflicts(rows_by_set: RowsBySet, spec: JobSpec, listener: Listener) -> ConflictResolution:
    """Find and report every row that states a fact of a forget set, and drop it from the learned set on request.

    Raises:
        BadData: no row would remain, the spec refuses such rows, or a forget set and the learned set are the same.
    """
    learned = rows_by_set.get(spec.learned_set, ())
    _refuse_same_sets(rows_by_set, spec, learned)
    conflicts_by_pair = {
        pair: find_conflicts(rows_by_set[pair[0]], rows_by_set[pair[1]]) for pair in list_set_pairs(rows_by_set)
    }
    of_learned = {
        forget_set: rows for (forget_set, other), rows in conflicts_by_pair.items() if other == spec.learned_set
    }
    if problem := find_conflict_problem(of_learned, len(learned), spec):
        raise BadData(f"{spec.learned_set} set: {problem}", details=tuple(_lines(of_learned)))
    dropped: set[int] = set()
    if spec.retain_conflicts == "drop" and spec.kind != "evaluate":
        dropped = _rows_of(of_learned)
    conflicts = tuple(
        make_set_conflicts(forget_set, other, rows, spec)
        for (forget_set, other), rows in conflicts_by_pair.items()
        if rows
    )
    for set_conflicts in conflicts:
        if needs_warning(set_conflicts.other_set, spec):
            listener.emit("warning", message=format_conflict_message(set_conflicts, spec))
    return ConflictResolution(
        rows=_split(rows_by_set, spec, dropped),
        sha256s={
            name: compute_canonical_sha256(rows) for name, rows in _with_originals(rows_by_set, spec, dropped).items()
        },
        conflicts=conflicts,
    )


def _refuse_same_sets(rows_by_set: RowsBySet, spec: JobSpec, learned: Sequence[Row]) -> None:
    if spec.kind != "unlearn":
        return
    for name in filter(spec.unlearns, rows_by_set):
        if hold_same_rows(rows_by_set[name], learned):
            raise BadData(
                f"the {name} set and the {spec.learned_set} set hold the same rows, which cannot be both forgotten "
                "and retained; give other rows"
            )


def list_set_pairs(set_names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each forget set with every other kind of set, and the forget set with prior forget sets."""
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
    """Return the conflicts of one set as the report holds them."""
    return SetConflicts(
        forget_set=forget_set,
        other_set=other,
        num_rows=len({conflict.row for conflict in rows}),
        handling=_handling(other, spec),
        rows=tuple(
            RowConflict(row=conflict.row, forget_row=conflict.forget_row, layer=conflict.layer) for conflict in rows
        ),
    )


def find_conflict_problem(
    conflicts_by_forget_set: Mapping[str, Sequence[Conflict]], num_rows: int, spec: JobSpec
) -> str | None:
    """Return why a set of `num_rows` rows cannot be learned, given its conflicts; None if it can."""
    num_conflicts = len(_rows_of(conflicts_by_forget_set))
    if not num_conflicts or spec.kind == "evaluate":
        return None
    if spec.retain_conflicts == "refuse":
        return (
            f"{num_conflicts} rows state, or ask for, what is to be forgotten; remove them, or set retain_conflicts to "
            "'drop' or 'keep'"
        )
    if spec.retain_conflicts == "drop" and num_conflicts == num_rows:
        return (
            "every row states, or asks for, what is to be forgotten, so no row would remain to learn; give rows "
            "about other subjects, or set retain_conflicts to 'keep'"
        )
    return None


def _rows_of(of_learned: Mapping[str, Sequence[Conflict]]) -> set[int]:
    return {conflict.row for conflicts in of_learned.values() for conflict in conflicts}


def _lines(of_learned: Mapping[str, Sequence[Conflict]]) -> Iterator[str]:
    for forget_set, conflicts in of_learned.items():
        for conflict in conflicts:
            layer = conflict.layer.replace("_", " ")
            yield f"row {conflict.row}: row {conflict.forget_row} of the {forget_set} set ({layer})"


def _split(rows_by_set: RowsBySet, spec: JobSpec, dropped: set[int]) -> dict[str, tuple[Row, ...]]:
    """Return the sets as they are used: without the dropped rows, which form their own set."""
    rows = dict(rows_by_set)
    if dropped:
        learned = rows_by_set[spec.learned_set]
        rows[spec.learned_set] = tuple(row for row in learned if row.number not in dropped)
        rows[spec.dropped_set] = tuple(row for row in learned if row.number in dropped)
    return rows


def _with_originals(rows_by_set: RowsBySet, spec: JobSpec, dropped: set[int]) -> dict[str, tuple[Row, ...]]:
    return {**_split(rows_by_set, spec, dropped), **rows_by_set}


def format_conflict_message(conflicts: SetConflicts, spec: JobSpec) -> str:
    """Describe the conflicts of a set, with row numbers."""
    pairs = format_list((f"{pair.row}={pair.forget_row}" for pair in conflicts.rows), MAX_LISTED_ROWS)
    return f"{format_conflict_sentence(conflicts, spec)} ({conflicts.other_set}={conflicts.forget_set}: {pairs})"


def needs_warning(other: str, spec: JobSpec) -> bool:
    """Return whether forget facts in a set need a warning: they change the run, or the meaning of its numbers.

    A further set may contain any question.
    """
    return other == spec.learned_set or other in _CONSEQUENCES or is_forget_set(other)


def format_conflict_sentence(conflicts: SetConflicts, spec: JobSpec) -> str:
    """Describe what a set shares with a forget set, and the consequence."""
    rows = "1 row" if conflicts.num_rows == 1 else f"{conflicts.num_rows} rows"
    verbs = "states, or asks for," if conflicts.num_rows == 1 else "state, or ask for,"
    sentence = f"{rows} of the {conflicts.other_set} set {verbs} facts of the {conflicts.forget_set} set"
    if conflicts.handling == "dropped":
        return f"{sentence}: left out of training, and measured as {spec.dropped_set}"
    if conflicts.handling == "kept":
        is_unlearned = spec.unlearns(conflicts.forget_set)
        return f"{sentence}: {'they are both forgotten and learned' if is_unlearned else 'they are learned again'}"
    consequence = _CONSEQUENCES.get(conflicts.other_set)
    return f"{sentence}: {consequence}" if consequence else sentence

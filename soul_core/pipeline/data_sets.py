"""The data sets of a run before its model is loaded: general text added, conflicts resolved, retain rows held out."""

from dataclasses import replace

from soul_core.conflicts.retain_set import ConflictResolution, resolve_conflicts
from soul_core.data import RowsBySet
from soul_core.data.general_text import split_sample
from soul_core.data.held_out import count_held_out, find_shared_rows, split_off
from soul_core.events import Listener
from soul_core.formatting import format_row_numbers
from soul_core.spec import GENERAL, RETAIN, RETAIN_HELD_OUT, JobSpec


def prepare_datasets(rows: RowsBySet, spec: JobSpec, listener: Listener) -> ConflictResolution:
    """Return the data sets as the run uses them.

    Raises:
        BadData: see `resolve_conflicts`.
    """
    made = spec.list_made_sets(rows)
    if GENERAL in made:
        rows = {**rows, GENERAL: split_sample(spec.seed)[1]}
    resolution = resolve_conflicts(rows, spec, listener)
    if GENERAL in made:
        resolution = resolution.set_origin(
            GENERAL, "shipped", f"{len(rows[GENERAL])} of the passages that SOUL ships (CC0), selected by the seed"
        )
    if RETAIN_HELD_OUT in made and RETAIN in rows:
        return hold_out_rows(resolution, spec)
    _warn_of_trained_rows(resolution.rows, listener)
    return resolution


def hold_out_rows(resolution: ConflictResolution, spec: JobSpec) -> ConflictResolution:
    """Move some rows of the retain set to a set of their own, which no run trains on.

    Rows that state forget facts stay where they are: the model should not know them afterwards.
    """
    conflicting = {
        pair.row for conflicts in resolution.conflicts if conflicts.other_set == RETAIN for pair in conflicts.rows
    }
    retain = resolution.rows[RETAIN]
    candidates = [row for row in retain if row.number not in conflicting]
    num_rows = min(count_held_out(len(retain), spec.data.retain_held_out), len(candidates), len(retain) - 1)
    _, part = split_off(candidates, num_rows, seed=spec.seed, purpose=RETAIN_HELD_OUT)
    if not part:
        return resolution
    held_out = tuple(candidates[index] for index in part)
    numbers = {row.number for row in held_out}
    resolution = replace(
        resolution,
        rows={**resolution.rows, RETAIN: tuple(row for row in retain if row.number not in numbers)},
    )
    description = f"{len(held_out)} of {len(retain)} retain rows, selected by the seed and their content"
    return resolution.add_set(RETAIN_HELD_OUT, held_out, "held_out", description)


def _warn_of_trained_rows(rows: RowsBySet, listener: Listener) -> None:
    if shared := find_shared_rows(rows.get(RETAIN_HELD_OUT, ()), rows.get(RETAIN, ())):
        listener.emit("warning", message=f"{format_shared_rows(len(shared))}: {format_row_numbers(shared)}")


def format_shared_rows(num_rows: int) -> str:
    """Describe held-out rows that are trained on after all, because the user gave them twice."""
    rows = (
        f"1 row of the {RETAIN_HELD_OUT} set is"
        if num_rows == 1
        else f"{num_rows} rows of the {RETAIN_HELD_OUT} set are"
    )
    return f"{rows} in the {RETAIN} set too, so trained on: they do not show what is lost elsewhere"

"""Draws the examples of each step, and those whose curvature is estimated, by the seed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from soul_core.data.encoding import Example
from soul_core.data.sampling import BatchStream
from soul_core.objectives import get_terms
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec import JobSpec
from soul_core.training.micro_batching import BatchItem, BatchUnit


class TrainingBatches:
    """The forget and the retain stream of a run. Its state is their positions."""

    def __init__(self, spec: JobSpec, groups: Mapping[ExampleGroup, Sequence[Example]]) -> None:
        self._spec, self.groups = spec, groups
        self._forget = self._make_stream("forget")
        self._retain = self._make_stream("retain")
        self._guard = self._make_stream("guard")

    def next_batch(self) -> list[BatchUnit]:
        """Return the examples of the next step, forget and retain."""
        terms = get_terms(self._spec)
        units: list[BatchUnit] = []
        if self._forget and "forget" in terms:
            groups = [group for part in ("forget", "after") if part in terms for group in terms[part].term.groups]
            units += [self._make_unit(groups, index) for index in self._forget.next_batch()]
        if self._retain and "retain" in terms:
            units += [self._make_unit(terms["retain"].term.groups, index) for index in self._retain.next_batch()]
        return units

    def draw_curvature_batches(
        self, units: Sequence[BatchUnit], data: str, *, num_batches: int = 1
    ) -> Iterator[list[BatchUnit]]:
        """Yield the examples of each estimate: those of this step that `data` names, then others (a warm start)."""
        if num_batches:
            yield self._select_units(units, data)
        if num_batches <= 1:
            return
        others = TrainingBatches(self._spec.model_copy(update={"seed": self._spec.seed + 2}), self.groups)
        for _ in range(num_batches - 1):
            yield others._select_units(others.next_batch(), data)

    def list_used_indices(self, group: ExampleGroup, num_steps: int) -> list[int]:
        """Return the indices of the examples of a group that `num_steps` steps use, in ascending order."""
        stream = self._make_stream("retain" if group == "retain" else "forget")
        return sorted({index for _ in range(num_steps) for index in stream.next_batch()}) if stream else []

    def state_dict(self) -> dict[str, Any]:
        """Return the positions of both streams."""
        streams = {"forget_stream": self._forget, "retain_stream": self._retain, "guard_stream": self._guard}
        return {name: stream.state_dict() if stream else None for name, stream in streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue both streams."""
        if self._forget:
            self._forget.load_state_dict(state["forget_stream"])
        if self._retain:
            self._retain.load_state_dict(state["retain_stream"])
        if self._guard:
            self._guard.load_state_dict(state["guard_stream"])

    def _select_units(self, units: Sequence[BatchUnit], data: str) -> list[BatchUnit]:
        """Return the units that `data` names; guard rows, and retain rows if the step has none, are drawn here."""
        if data == "guard" and self._guard:
            return [self._make_unit(("guard",), index) for index in self._guard.next_batch()]
        wanted = "retain" if data == "guard" else data  # without guard rows
        selected = [unit for unit in units if wanted in {"both", "retain" if is_retain(unit) else "forget"}]
        if not any(map(is_retain, units)) and wanted != "forget" and self._retain:
            selected += [self._make_unit(("retain",), index) for index in self._retain.next_batch()]
        return selected

    def _make_stream(self, group: ExampleGroup) -> BatchStream | None:
        training, seed, examples = self._spec.training, self._spec.seed, self.groups.get(group)
        if not examples:
            return None
        if group == "forget":
            return BatchStream(len(examples), training.forget_batch, seed)
        return BatchStream(len(examples), training.retain_batch, seed + (1 if group == "retain" else 3))

    def _make_unit(self, groups: Sequence[ExampleGroup], index: int) -> BatchUnit:
        return tuple(BatchItem(group, index, self.groups[group][index]) for group in groups)


def is_retain(unit: BatchUnit) -> bool:
    """Return whether a unit belongs to the retain term."""
    return unit[0].group == "retain"

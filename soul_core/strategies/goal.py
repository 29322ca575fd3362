"""How far a model is from holding the job's criteria, on few rows: what trials are compared by."""

from collections.abc import Sequence
from pathlib import Path

from soul_core.evaluation.chosen_rows import choose
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.verdict import judge, named
from soul_core.listener import Listener, Phase, Quiet, Wish
from soul_core.metrics.aggregate import Resampling
from soul_core.report import CriterionResult, ModelMeasurements
from soul_core.spec import Criterion, JobSpec
from soul_core.subject import Subject


class Goal:
    """The criteria that can be looked at while training: all but those under attacks."""

    def __init__(self, subject: Subject, spec: JobSpec, *, rows: int, folder: Path, listener: Listener) -> None:
        self._subject, self._spec, self._listener = subject, spec, listener
        self._folder = folder
        self.criteria = tuple(each for each in spec.criteria_on(subject.sets) if each.attack is None)
        wanted = {criterion.set for criterion in self.criteria}
        self._sets = tuple(
            choose(one.name, one.rows, one.examples, most=rows, seed=spec.seed)
            for one in subject.sets.values()
            if one.name in wanted
        )
        metrics = tuple(dict.fromkeys(each.metric for each in self.criteria))
        changes = {"metrics": metrics, "max_examples": rows, "side_by_side": 0, "bootstrap": 0}
        self._evaluation = spec.evaluation.model_copy(update=changes)
        self._base = self._measure("base")  # the subject is the base when a strategy begins

    def look(self, name: str) -> tuple[float, dict[str, float | None]]:
        """Return (shortfall, criterion -> value) of the model as it stands. `name` keeps the look for a resumed run."""
        results = judge(self.criteria, judged=self._measure(name), base=self._base, resampling=Resampling(0, 0.95, 0))
        return sum(map(shortfall, results)), {named(each.criterion): each.value for each in results}

    def _measure(self, name: str) -> ModelMeasurements:
        if not self.criteria or not self._sets:
            return ModelMeasurements(sets={})
        phase: Phase = "unlearn" if self._spec.kind == "unlearn" else "finetune"
        measured = measure(
            self._subject.loaded,
            self._sets,
            self._evaluation,
            seed=self._spec.seed,
            micro_batch_tokens=self._spec.training.micro_batch_tokens,
            phase=phase,
            listener=_Silent(self._listener),
            kept=self._folder / name,
        )
        return measured.measurements()


def shortfall(result: CriterionResult) -> float:
    """Return by how much of its bound a criterion is missed; 0 when it holds, 1 when it cannot be measured."""
    if result.value is None or result.bound is None:
        return 1.0
    over = result.value - result.bound if result.criterion.at_most is not None else result.bound - result.value
    return max(0.0, over) / max(abs(result.bound), 1e-6)


def met(total: float, criteria: Sequence[Criterion]) -> bool:
    """Say whether every criterion holds, as far as a look can tell."""
    return bool(criteria) and total == 0.0


class _Silent(Quiet):
    """Passes wishes on, and no progress: a look's rows are not the training's steps."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def wish(self) -> Wish:
        return self._listener.wish()

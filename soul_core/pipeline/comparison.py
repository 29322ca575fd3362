"""All models of a run beside each other: derived metrics, the reference's log, and what the criteria say of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.atomic_io import sha256_of
from soul_core.errors import BadData
from soul_core.evaluation.row_matching import match_log, warnings_of
from soul_core.evaluation.tofu_logs import ReferenceLog, read_reference_log
from soul_core.evaluation.verdict import judge
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import derive
from soul_core.pipeline.model_under_test import Examined, Subject
from soul_core.report import AttackResult, CriterionResult, ModelMeasurements, ReferenceFacts
from soul_core.spec import BASE, DROPPED, REFERENCE, JobSpec


@dataclass(frozen=True)
class Log:
    """A log that stands for the reference: the retrained model itself is not there."""

    log: ReferenceLog
    facts: ReferenceFacts

    @property
    def measurements(self) -> ModelMeasurements:
        """What was measured; after `on_rows_of`, of the rows of this run."""
        return self.log.measurements

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the log cannot say, one sentence each."""
        return tuple(warnings_of(self.facts.source, self.facts.matches))


def read_log_of_reference(path: Path | None, *, sha256: str | None = None) -> Log | None:
    """Read the log. Raises BadData for what is none, or is not the file with this sha256 any more."""
    if path is None:
        return None
    log = read_reference_log(path)
    now = sha256_of(path)
    if sha256 is not None and now != sha256:
        raise BadData(
            f"the reference's log {path.name} is no longer what the job wrote: the stored file is damaged. Run the job "
            "that made it again",
            details=(f"sha256 as it was written: {sha256}", f"sha256 now: {now}"),
        )
    return Log(log, ReferenceFacts(source=path.name, digest=f"sha256:{now}", from_log=True))


def on_rows_of(log: Log, subject: Subject, spec: JobSpec) -> Log:
    """Return the log on the rows that are measured in this run, in their order. Raises BadData for other rows."""
    measured, matches = match_log(
        log.log,
        subject.chosen,
        last_rows={name: _last_row(name, subject) for name in subject.sets},
        key=subject.key,
        resampling=Resampling.of(spec.evaluation, spec.seed),
    )
    return Log(ReferenceLog(measured), log.facts.model_copy(update={"matches": matches}))


def _last_row(name: str, subject: Subject) -> int:
    """Return the number of the last row of a set as it was given, rows that were left out included."""
    parts = [subject.sets[part] for part in (name, f"{name}{DROPPED}") if part in subject.sets]
    return max(row.number for part in parts for row in part.rows)


def compare(
    spec: JobSpec, judged: str, examined: Mapping[str, Examined], log: Log | None
) -> dict[str, ModelMeasurements]:
    """Return every model's measurements, derived ones included, as a report shows them: before, after, what would be
    perfect, others. The reference compared with itself is what perfect looks like: forget quality 1, PrivLeak 0.
    """
    measured = {name: one.measurements for name, one in examined.items()}
    if log is not None:
        measured[REFERENCE] = log.measurements
    reference = measured.get(REFERENCE)
    known = [name for name in (BASE, judged, REFERENCE) if name in measured]
    return {
        name: derive(measured[name], reference, spec.evaluation, spec.seed)  # the reference against itself: the ideal
        for name in known + [name for name in measured if name not in known]
    }


def judge_run(
    spec: JobSpec, judged: str, models: Mapping[str, ModelMeasurements], attacks: Sequence[AttackResult]
) -> tuple[CriterionResult, ...]:
    """Judge the criteria; those on attacks by the judged model under them and the base without them."""
    return judge(
        spec.criteria_on(models[judged].sets),
        judged=models[judged],
        base=models.get(BASE),
        resampling=Resampling.of(spec.evaluation, spec.seed),
        attacked={
            one.label: ModelMeasurements(sets=one.under[judged], rows=one.rows)
            for one in attacks
            if judged in one.under
        },
        base_unattacked={
            one.label: ModelMeasurements(sets=one.without[BASE], rows=one.rows)
            for one in attacks
            if BASE in one.without
        },
    )

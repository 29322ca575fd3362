"""All models of a run beside each other: derived metrics, the reference's log, and what the criteria say of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadData
from soul_core.evaluation.row_matching import collect_match_warnings, match_log
from soul_core.evaluation.tofu_logs import RetrainedLog, read_retrained_log
from soul_core.evaluation.verdict import judge_criteria
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import add_derived_metrics
from soul_core.pipeline.model_under_test import Examined, ModelUnderTest
from soul_core.report import AttackResult, CriterionResult, ModelMeasurements, RetrainedModelFacts
from soul_core.spec import BASE, DROPPED_SUFFIX, RETRAINED, JobSpec


@dataclass(frozen=True)
class RetrainedLogFile:
    """A log that stands for the reference: the retrained model itself is not there."""

    log: RetrainedLog
    facts: RetrainedModelFacts

    @property
    def measurements(self) -> ModelMeasurements:
        """What was measured; after `on_rows_of`, of the rows of this run."""
        return self.log.measurements

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the log cannot say, one sentence each."""
        return tuple(collect_match_warnings(self.facts.source, self.facts.matches))


def read_retrained_log_file(path: Path | None, *, sha256: str | None = None) -> RetrainedLogFile | None:
    """Read the log. Raises BadData for what is none, or is not the file with this sha256 any more."""
    if path is None:
        return None
    log = read_retrained_log(path)
    now = compute_sha256(path)
    if sha256 is not None and now != sha256:
        raise BadData(
            f"the reference's log {path.name} is no longer what the job wrote: the stored file is damaged. Run the job "
            "that made it again",
            details=(f"sha256 as it was written: {sha256}", f"sha256 now: {now}"),
        )
    return RetrainedLogFile(log, RetrainedModelFacts(source=path.name, digest=f"sha256:{now}", from_log=True))


def match_log_rows(log: RetrainedLogFile, model_under_test: ModelUnderTest, spec: JobSpec) -> RetrainedLogFile:
    """Return the log on the rows that are measured in this run, in their order. Raises BadData for other rows."""
    measured, matches = match_log(
        log.log,
        model_under_test.evaluation_sets,
        last_rows={name: _last_row(name, model_under_test) for name in model_under_test.datasets},
        key=model_under_test.digest_key,
        resampling=Resampling.of(spec.evaluation, spec.seed),
    )
    return RetrainedLogFile(RetrainedLog(measured), log.facts.model_copy(update={"matches": matches}))


def _last_row(name: str, subject: ModelUnderTest) -> int:
    """Return the number of the last row of a set as it was given, rows that were left out included."""
    parts = [subject.datasets[part] for part in (name, f"{name}{DROPPED_SUFFIX}") if part in subject.datasets]
    return max(row.number for part in parts for row in part.rows)


def compare_models(
    spec: JobSpec, judged: str, evaluations: Mapping[str, Examined], retrained_log: RetrainedLogFile | None
) -> dict[str, ModelMeasurements]:
    """Return every model's measurements, derived ones included, as a report shows them: before, after, what would be
    perfect, others. The reference compared with itself is what perfect looks like: forget quality 1, PrivLeak 0.
    """
    measured = {name: one.measurements for name, one in evaluations.items()}
    if retrained_log is not None:
        measured[RETRAINED] = retrained_log.measurements
    retrained = measured.get(RETRAINED)
    known = [name for name in (BASE, judged, RETRAINED) if name in measured]
    return {
        name: add_derived_metrics(
            measured[name], retrained, spec.evaluation, spec.seed
        )  # the reference against itself: the ideal
        for name in known + [name for name in measured if name not in known]
    }


def judge_run(
    spec: JobSpec, judged: str, models: Mapping[str, ModelMeasurements], attacks: Sequence[AttackResult]
) -> tuple[CriterionResult, ...]:
    """Judge the criteria; those on attacks by the judged model under them and the base without them."""
    return judge_criteria(
        spec.expand_criteria(models[judged].sets),
        judged=models[judged],
        base=models.get(BASE),
        resampling=Resampling.of(spec.evaluation, spec.seed),
        attacked_measurements={
            one.label: ModelMeasurements(sets=one.attacked[judged], rows=one.rows)
            for one in attacks
            if judged in one.attacked
        },
        baseline_measurements={
            one.label: ModelMeasurements(sets=one.baseline[BASE], rows=one.rows)
            for one in attacks
            if BASE in one.baseline
        },
    )

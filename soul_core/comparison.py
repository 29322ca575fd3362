"""All models of a run beside each other: derived metrics, the reference's log, and what the criteria say of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.derived import derive
from soul_core.evaluation.tofu_logs import read_reference_log
from soul_core.evaluation.verdict import judge
from soul_core.metrics.aggregate import Resampling
from soul_core.models.files import sha256_of
from soul_core.report import AttackResult, CriterionResult, ModelMeasurements, ReferenceFacts
from soul_core.spec import BASE, REFERENCE, JobSpec
from soul_core.subject import Examined


@dataclass(frozen=True)
class Log:
    """A log that stands for the reference: the retrained model itself is not there."""

    measurements: ModelMeasurements
    facts: ReferenceFacts


def read_log_of_reference(path: Path | None) -> Log | None:
    """Read the log. Raises BadData for what is none."""
    if path is None:
        return None
    measurements = read_reference_log(path)
    return Log(measurements, ReferenceFacts(source=path.name, digest=f"sha256:{sha256_of(path)}", from_log=True))


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

"""All models of a run compared: derived metrics, the retrained model's log, and the criteria."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadData
from soul_core.evaluation.criterion_inputs import AttackedModel, AttackedModels
from soul_core.evaluation.logged_attacks import align_logged_attacks, renumber_attacks
from soul_core.evaluation.model_evaluation import AttackOutcome, ModelEvaluation
from soul_core.evaluation.row_matching import collect_match_warnings, map_row_numbers, match_log
from soul_core.evaluation.tofu_logs import RetrainedLog, read_retrained_log
from soul_core.evaluation.verdict import judge_criteria
from soul_core.events import Listener
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import add_derived_metrics
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.report import AttackResult, CriterionResult, ModelMeasurements, RetrainedModelFacts
from soul_core.spec import BASE, DROPPED_SUFFIX, FORGET, RETAIN, RETAIN_HELD_OUT, RETRAINED, JobSpec
from soul_core.spec.attacks import label_attacks

_NO_RETRAINED_ATTACK = (
    "its log has no attacks; compare with the retrained model itself, or with the report of a run that attacked it"
)


@dataclass(frozen=True)
class RetrainedLogFile:
    """A log of measurements that replaces the retrained model itself."""

    log: RetrainedLog
    facts: RetrainedModelFacts

    @property
    def measurements(self) -> ModelMeasurements:
        """The log's measurements; after `match_log_rows`, those of the rows of this run."""
        return self.log.measurements

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the log cannot show, one sentence each."""
        return tuple(collect_match_warnings(self.facts.source, self.facts.matches))


def read_retrained_log_file(path: Path | None, *, sha256: str | None = None) -> RetrainedLogFile | None:
    """Read the log; None if no path was given. Raises BadData if it is not a log, or does not have this sha256."""
    if path is None:
        return None
    log = read_retrained_log(path)
    current = compute_sha256(path)
    if sha256 is not None and current != sha256:
        raise BadData(
            f"the retrained model's log {path.name} is not the file that the job wrote: the stored file is damaged. "
            "Run the job that made it again",
            details=(f"sha256 as it was written: {sha256}", f"sha256 now: {current}"),
        )
    return RetrainedLogFile(log, RetrainedModelFacts(source=path.name, digest=f"sha256:{current}", from_log=True))


def match_log_rows(
    log: RetrainedLogFile,
    model_under_test: ModelUnderTest,
    spec: JobSpec,
    listener: Listener,
    *,
    made_sets: Collection[str] = (),
) -> RetrainedLogFile:
    """Return the log on the rows that are measured in this run, in their order; warn of rows that it lacks.

    Args:
        made_sets: Sets that the run made. Another seed makes others: of these the log may have other rows.

    Raises BadData for a log of other rows.
    """
    last_rows = {
        name: _find_last_row(name, model_under_test) for name in model_under_test.datasets if name not in made_sets
    }
    sets, key = model_under_test.evaluation_sets, model_under_test.digest_key
    resampling = Resampling.of(spec.evaluation, spec.seed)
    measurements, matches = match_log(log.log, sets, last_rows=last_rows, key=key, resampling=resampling)
    row_numbers = {
        log_row: row
        for evaluation_set in sets
        if evaluation_set.name == FORGET and log.log.attacks
        for log_row, row in map_row_numbers(log.log, evaluation_set, key, last_rows.get(FORGET)).items()
    }
    matched = RetrainedLogFile(
        RetrainedLog(measurements, attacks=renumber_attacks(log.log.attacks, row_numbers)),
        log.facts.model_copy(update={"matches": matches}),
    )
    for warning in matched.warnings:
        listener.emit("warning", message=warning)
    return matched


def _find_last_row(name: str, model_under_test: ModelUnderTest) -> int:
    """Return the number of the last row of a set as it was given, rows that were left out included."""
    datasets = model_under_test.datasets
    parts = [name, f"{name}{DROPPED_SUFFIX}", *([RETAIN_HELD_OUT] if name == RETAIN else [])]
    return max(row.number for part in parts if part in datasets for row in datasets[part].rows)


def compare_models(
    spec: JobSpec, judged: str, evaluations: Mapping[str, ModelEvaluation], retrained_log: RetrainedLogFile | None
) -> dict[str, ModelMeasurements]:
    """Return every model's measurements with derived metrics, in a report's order: base, judged, retrained, others.

    The retrained model is compared with itself too, which shows the ideal: forget quality 1, PrivLeak 0.
    """
    measurements = {name: evaluation.measurements for name, evaluation in evaluations.items()}
    if retrained_log is not None:
        measurements[RETRAINED] = retrained_log.measurements
    retrained = measurements.get(RETRAINED)
    first = [name for name in (BASE, judged, RETRAINED) if name in measurements]
    return {
        name: add_derived_metrics(
            measurements[name], retrained, spec.evaluation, spec.seed, base=measurements.get(BASE)
        )
        for name in dict.fromkeys([*first, *measurements])
    }


def add_logged_attacks(
    spec: JobSpec,
    judged: str,
    outcomes: Mapping[str, Mapping[str, AttackOutcome]],
    retrained_log: RetrainedLogFile | None,
    sha256s: Mapping[str, str],
) -> dict[str, Mapping[str, AttackOutcome]]:
    """Return the outcomes of attacks by model, with those of the retrained model's log.

    Args:
        sha256s: Digests of the data sets of this run.
    """
    if retrained_log is None:
        return dict(outcomes)
    attacks = label_attacks(spec.attacks)
    logged = align_logged_attacks(retrained_log.log.attacks, attacks, outcomes.get(judged, {}), sha256s)
    return {**outcomes, RETRAINED: logged}


def judge_run(
    spec: JobSpec,
    judged: str,
    models: Mapping[str, ModelMeasurements],
    attacks: Sequence[AttackResult],
    outcomes: Mapping[str, Mapping[str, AttackOutcome]],
) -> tuple[CriterionResult, ...]:
    """Judge the criteria; those on an attack by the models under it.

    Args:
        outcomes: Model -> label of the attack -> its outcome, as `add_logged_attacks` returns them.
    """
    of_both = [attack.label for attack in attacks if {judged, RETRAINED} <= attack.attacked.keys()]
    return judge_criteria(
        spec.expand_criteria(models[judged].sets, retrained_attacks=of_both),
        judged=models[judged],
        base=models.get(BASE),
        retrained=models.get(RETRAINED),
        resampling=Resampling.of(spec.evaluation, spec.seed),
        attacks={attack.label: _select_models(attack, judged, outcomes) for attack in attacks},
    )


def _select_models(
    attack: AttackResult, judged: str, outcomes: Mapping[str, Mapping[str, AttackOutcome]]
) -> AttackedModels:
    def get_model(name: str) -> AttackedModel | None:
        if name not in attack.attacked:
            return None
        before, after = attack.baseline.get(name, {}), attack.attacked[name]
        return AttackedModel(
            before=ModelMeasurements(sets=before, rows=attack.rows),
            after=ModelMeasurements(sets=after, rows=attack.rows),
        )

    def get_reason(name: str) -> str | None:
        outcome = outcomes.get(name, {}).get(attack.label)
        return None if outcome is None else outcome.absent_reason

    return AttackedModels(
        judged=get_model(judged),
        base=get_model(BASE),
        retrained=get_model(RETRAINED),
        judged_absent_reason=get_reason(judged),
        retrained_absent_reason=get_reason(RETRAINED) or _NO_RETRAINED_ATTACK,
    )

"""Caveats of a report: what was not measured, and what its numbers cannot show. Torch-free."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from soul_core.conflicts.retain_set import format_conflict_sentence, needs_warning
from soul_core.formatting import format_number
from soul_core.report import (
    AttackResult,
    DatasetFacts,
    ExportFacts,
    GeneratedRetainFacts,
    ModelMeasurements,
    SetConflicts,
)
from soul_core.spec import (
    BASE,
    FORGET,
    GENERAL,
    GENERAL_OWN,
    PRIOR_FORGET_CRITERIA,
    PRIOR_FORGET_PREFIX,
    RETAIN,
    RETAIN_HELD_OUT,
    RETRAINED,
    JobKind,
    JobSpec,
)

#: Fraction of changed weights that survive rounding, below which the report has a caveat.
_MIN_CHANGES_KEPT = 0.5
#: Bootstrap intervals of fewer rows are rough.
_MIN_ROWS = 30
#: Fewer held-out rows than this show little. Ours.
_MIN_HELD_OUT = 10


def collect_caveats(
    spec: JobSpec,
    data: Sequence[DatasetFacts],
    measurements: ModelMeasurements,
    *,
    models: Mapping[str, ModelMeasurements],
    attacks: Sequence[AttackResult],
    conflicts: Sequence[SetConflicts] = (),
    num_unfinished: Mapping[str, int] | None = None,
) -> Iterator[str]:
    """Yield one sentence for each caveat.

    Args:
        measurements: Of the judged model.
        models: All models of the report.
        conflicts: Facts of the forget sets that other sets contain.
        num_unfinished: Set -> number of answers that were cut off before they began.
    """
    sets = {facts.name for facts in data}
    yield from _collect_sampling_caveats(measurements, spec)
    if FORGET in sets:
        yield from _collect_forgetting_caveats(models, attacks)
    yield from _collect_utility_caveats(spec, {facts.name: facts for facts in data}, models)
    if spec.kind == JobKind.EVALUATE and BASE not in models:
        yield "No base model was given to compare with: these numbers cannot show what has changed."
    for name, count in (num_unfinished or {}).items():
        yield (
            f"In {count} rows of the {name} set the model was still thinking after evaluation.max_new_tokens, so it "
            "gave no answer: raise that, or turn thinking off (chat_template_kwargs)."
        )
    for facts in data:
        if facts.origin not in {"shipped", "sampled"}:
            yield from _collect_row_caveats(facts, len(measurements.rows.get(facts.name, ())))
    if spec.kind != JobKind.EVALUATE and BASE in models:
        yield from _collect_prior_forget_caveats(models[BASE])
    yield from (
        f"{format_conflict_sentence(conflict, spec)}."
        for conflict in conflicts
        if needs_warning(conflict.other_set, spec)
    )
    if RETRAINED in models and any(conflict.handling == "kept" for conflict in conflicts):
        yield "If the retrained model learned those rows too, it knows facts of the forget set."
    if spec.evaluation.bootstrap == 0:
        yield "The spec turns confidence intervals off: chance differences count as differences."
    if spec.kind != JobKind.EVALUATE:
        yield f"This is one run with one seed ({spec.seed}); another seed gives other numbers."


def collect_generated_retain_caveats(facts: GeneratedRetainFacts | None) -> Iterator[str]:
    """Yield what a retain set that the base model made can show."""
    if facts is None:
        return
    counts = facts.num_rows
    yield (
        f"No retain set was given: the base model made one of {sum(counts.values())} rows ({counts['neighbors']} in "
        f"the form of the forget rows, {counts['general']} answers to general prompts, {counts['free']} of its own). "
        "Its numbers show whether the model still says what it said, right or wrong, and nothing of what you need it "
        "for."
    )


def collect_export_caveats(export: ExportFacts | None) -> Iterator[str]:
    """Yield what the written weights lost of the training, and where programs that read them may differ."""
    if export is None:
        return
    fraction_kept = export.changed_share_kept
    if fraction_kept is not None and fraction_kept < _MIN_CHANGES_KEPT:
        yield (
            f"Rounding the weights to {export.dtype} undid most of the training: {fraction_kept:.1%} of the changed "
            "weights still differ from the base model's. All numbers after training are those of the rounded weights; "
            "export.dtype 'float32' keeps every change, and a higher learning rate makes larger ones."
        )
    if export.gguf is not None:
        yield (
            f"The GGUF file ({export.gguf.kind}) was compared with the checkpoint weight by weight, and not measured: "
            f"its weights differ by {export.gguf.relative_error:.2g} of their norm."
        )
        yield from export.gguf.notes


def _collect_sampling_caveats(measurements: ModelMeasurements, spec: JobSpec) -> Iterator[str]:
    where = "Answers outside the sampled forget rows" if measurements.leaks else "Answers"
    yield f"{where} are the model's first choice (greedy decoding); sampling may reveal others."
    temperatures = " and ".join(f"{value:g}" for value in spec.evaluation.leak_temperatures)
    for name, facts in measurements.leaks.items():
        num_rows = sum(count is not None for count in facts.temperatures[0].leaking_samples)
        yield (
            f"{num_rows} of the {len(measurements.rows.get(name, ()))} measured rows of the {name} set were asked "
            f"{facts.num_samples} times at temperature {temperatures}: what a model reveals more rarely was not seen."
        )


def _collect_forgetting_caveats(models: Collection[str], attacks: Sequence[AttackResult]) -> Iterator[str]:
    yield (
        "The forget questions are asked in their own words: other languages and longer conversations were not tried, "
        "other wordings only where an attack or a further set has them."
    )
    labels = [attack.label for attack in attacks if attack.attacked]
    if labels:
        yield (
            f"Attacks tried: {', '.join(labels)}. Others, or the same with more effort, may recover what these did not."
        )
    else:
        yield (
            "No attack was run: relearning, quantization or special prompts may recover what these rows do not show."
        )
    if labels and RETRAINED in models and not any(RETRAINED in attack.attacked for attack in attacks):
        yield (
            "The retrained model was not attacked, so the verdict does not compare what attacks recover with what a "
            "model that never saw the forget set gives under them."
        )
    if RETRAINED not in models:
        yield (
            "No model retrained without the forget set was given, so these numbers cannot show how a model that never "
            "saw it would answer."
        )


def _collect_utility_caveats(spec: JobSpec, data: Mapping[str, DatasetFacts], models: Collection[str]) -> Iterator[str]:
    if spec.kind == JobKind.UNLEARN and RETAIN not in data:
        yield "No retain set was given: what else the model lost was not measured."
    elif spec.kind == JobKind.UNLEARN:
        yield from _collect_held_out_caveats(spec, data, models)
    if spec.kind != JobKind.FINETUNE and not {GENERAL, GENERAL_OWN} & data.keys():
        yield "No general text was given: abilities outside the data sets were not measured."
    elif any(facts.origin == "shipped" for facts in data.values()):
        yield (
            "General text is a few short English passages that SOUL ships: other languages, long texts and code were "
            "not measured. A general set of your own replaces them."
        )


def _collect_held_out_caveats(
    spec: JobSpec, data: Mapping[str, DatasetFacts], models: Collection[str]
) -> Iterator[str]:
    held_out = data.get(RETAIN_HELD_OUT)
    if held_out is None:
        reason = (
            "data.retain_held_out is 0"
            if spec.data.retain_held_out == 0
            else f"the retain set has {data[RETAIN].num_rows} rows only; give 50 or more"
        )
        yield f"No retain row was held out ({reason}): what was lost on rows that no step trained on was not measured."
        return
    if held_out.origin != "held_out":
        return
    if held_out.num_rows < _MIN_HELD_OUT:
        yield (
            f"Only {held_out.num_rows} retain rows were held out of training: that is too few to tell how much of what "
            "was not trained on is left. Of 50 retain rows 10 are held out."
        )
    if RETRAINED in models:
        yield (
            f"The retrained model may have learned the rows of the {RETAIN_HELD_OUT} set, if it was trained on the "
            "complete retain set: there its numbers are not those of unseen rows."
        )


def _collect_prior_forget_caveats(base: ModelMeasurements) -> Iterator[str]:
    for name, metrics in base.sets.items():
        if not name.startswith(PRIOR_FORGET_PREFIX):
            continue
        known = [
            f"{criterion.metric} {format_number(value.value)}"
            for criterion in PRIOR_FORGET_CRITERIA
            if (value := metrics.get(criterion.metric)) is not None
            and value.value is not None
            and criterion.at_most is not None
            and value.value > criterion.at_most
        ]
        if known:
            yield (
                f"The {name} set was still known when this job began ({', '.join(known)}): an earlier job did not "
                "forget it far enough, or it was learned again."
            )


def _collect_row_caveats(facts: DatasetFacts, num_rows: int) -> Iterator[str]:
    if num_rows < facts.num_rows:
        yield f"Of the {facts.num_rows} rows of the {facts.name} set, {num_rows} were measured, selected by the seed."
    elif num_rows < _MIN_ROWS:
        yield (
            f"The {facts.name} set has {num_rows} rows only: intervals of so few rows are rough; where all rows "
            f"agree, a fraction of up to {min(1, 3 / max(1, num_rows)):.0%} of other rows could still differ."
        )

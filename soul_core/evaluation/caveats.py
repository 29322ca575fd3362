"""What a report must admit: what was not measured, and what its numbers cannot say. Torch-free."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from soul_core.conflicts.retain_set import format_conflict_sentence, needs_warning
from soul_core.formatting import format_number
from soul_core.report import AttackResult, DatasetFacts, ExportFacts, ModelMeasurements, SetConflicts
from soul_core.spec import BASE, FORGET, GENERAL, PRIOR_FORGET_CRITERIA, PRIOR_FORGET_PREFIX, RETAIN, RETRAINED, JobSpec

#: Below this share of changed weights that survive rounding, the report says so.
_MOST_KEPT = 0.5
#: Bootstrap intervals of fewer rows are rough: they are too narrow.
_FEW_ROWS = 30


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
    """Yield one sentence for each limit. `models`: those of the report; `conflicts`: what other sets have in common
    with the forget sets; `unfinished`: answers of each set that were cut off before they began.
    """
    sets = {facts.name for facts in data}
    yield "Answers are the model's first choice (greedy decoding); sampling may bring out others."
    if FORGET in sets:
        yield from _of_forgetting(spec, models, attacks)
    if spec.kind == "unlearn" and RETAIN not in sets:
        yield "No retain set was given: what else the model lost was not measured."
    if spec.kind != "finetune" and GENERAL not in sets:
        yield "No general text was given: abilities outside the data sets were not measured."
    if spec.kind == "evaluate" and BASE not in models:
        yield "No base model was given to compare with: these numbers cannot say what has changed."
    for name, count in (num_unfinished or {}).items():
        yield (
            f"In {count} rows of the {name} set the model was still thinking after evaluation.max_new_tokens, so it "
            "gave no answer: raise that, or turn thinking off (chat_template_kwargs)."
        )
    for facts in data:
        yield from _of_rows(facts, len(measurements.rows.get(facts.name, ())))
    if spec.kind != "evaluate" and BASE in models:
        yield from _of_earlier(models[BASE])
    yield from (
        f"{format_conflict_sentence(found, spec)}." for found in conflicts if needs_warning(found.other_set, spec)
    )
    if RETRAINED in models and any(found.handling == "kept" for found in conflicts):
        yield "If the retrained model learned those rows too, it knows what was to be forgotten."
    if spec.evaluation.bootstrap == 0:
        yield "No confidence intervals were asked for: chance differences count as differences."
    if spec.kind != "evaluate":
        yield f"This is one run with one seed ({spec.seed}); another seed gives other numbers."


def collect_export_caveats(export: ExportFacts | None) -> Iterator[str]:
    """Yield what the written weights cannot hold of the training, and where their readers may differ."""
    if export is None:
        return
    kept = export.changed_share_kept
    if kept is not None and kept < _MOST_KEPT:
        yield (
            f"Rounding the weights to {export.dtype} undid most of the training: {kept:.1%} of the changed weights "
            "still differ from the base model's. All numbers after training are those of the rounded weights; "
            "export.dtype 'float32' keeps every change, and a higher learning rate makes larger ones."
        )
    if export.gguf is not None:
        yield (
            f"The GGUF file ({export.gguf.kind}) was compared with the checkpoint weight by weight, and not measured: "
            f"its weights differ by {export.gguf.relative_error:.2g} of their norm."
        )
        yield from export.gguf.notes


def _of_forgetting(spec: JobSpec, models: Collection[str], attacks: Sequence[AttackResult]) -> Iterator[str]:
    yield (
        "The forget questions are asked in their own words: other languages and longer conversations were not tried, "
        "other wordings only where an attack or a further set has them."
    )
    ran = [one.label for one in attacks if one.attacked]
    if ran:
        yield (
            f"Attacks tried: {', '.join(ran)}. Others, or the same with more effort, may bring back what these did not."
        )
    else:
        yield (
            "No attack was run: relearning, quantization or special prompts may bring back what these rows do not show."
        )
    if RETRAINED not in models:
        yield (
            "No model retrained without the forget set was given, so these numbers cannot say how a model that never "
            "saw it would answer."
        )


def _of_earlier(base: ModelMeasurements) -> Iterator[str]:
    for name in base.sets:
        if not name.startswith(PRIOR_FORGET_PREFIX):
            continue
        found = ((bound, base.sets[name].get(bound.metric)) for bound in PRIOR_FORGET_CRITERIA)
        known = [
            f"{bound.metric} {format_number(one.value)}"
            for bound, one in found
            if one is not None and one.value is not None and bound.at_most is not None and one.value > bound.at_most
        ]
        if known:
            yield (
                f"The {name} set was still known when this job began ({', '.join(known)}): what an earlier job was to "
                "forget did not go far, or came back."
            )


def _of_rows(facts: DatasetFacts, num_rows: int) -> Iterator[str]:
    if num_rows < facts.num_rows:
        yield f"Of the {facts.num_rows} rows of the {facts.name} set, {num_rows} were measured, chosen by the seed."
    elif num_rows < _FEW_ROWS:
        yield (
            f"The {facts.name} set has {num_rows} rows only: intervals of so few rows are rough; where all rows "
            f"agree, a share of up to {min(1, 3 / max(1, num_rows)):.0%} of other rows could still differ."
        )

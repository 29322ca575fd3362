"""What a report must admit: what was not measured, and what its numbers cannot say. Torch-free."""

from collections.abc import Collection, Iterator, Sequence

from soul_core.report import AttackResult, DataFacts, ModelMeasurements
from soul_core.spec import BASE, FORGET, GENERAL, REFERENCE, RETAIN, JobSpec

#: Bootstrap intervals of fewer rows are rough: they are too narrow.
_FEW_ROWS = 30


def limits_of(
    spec: JobSpec,
    data: Sequence[DataFacts],
    measured: ModelMeasurements,
    *,
    models: Collection[str],
    attacks: Sequence[AttackResult],
    num_shared: int,
) -> Iterator[str]:
    """Yield one sentence for each limit. `models`: those of the report; `num_shared`: rows that forget and retain set
    have in common.
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
    for facts in data:
        yield from _of_rows(facts, len(measured.rows.get(facts.name, ())))
    if num_shared:
        yield f"{num_shared} questions of the forget set are asked in the retain set too: they pull both ways."
    if spec.evaluation.bootstrap == 0:
        yield "No confidence intervals were asked for: chance differences count as differences."
    if spec.kind != "evaluate":
        yield f"This is one run with one seed ({spec.seed}); another seed gives other numbers."


def _of_forgetting(spec: JobSpec, models: Collection[str], attacks: Sequence[AttackResult]) -> Iterator[str]:
    yield (
        "The forget questions are asked in their own words: other languages and longer conversations were not tried, "
        "other wordings only where an attack or a further set has them."
    )
    ran = [one.label for one in attacks if one.under]
    if ran:
        yield (
            f"Attacks tried: {', '.join(ran)}. Others, or the same with more effort, may bring back what these did not."
        )
    else:
        yield (
            "No attack was run: relearning, quantisation or special prompts may bring back what these rows do not show."
        )
    if REFERENCE not in models:
        yield (
            "No model retrained without the forget set was given, so these numbers cannot say how a model that never "
            "saw it would answer."
        )


def _of_rows(facts: DataFacts, num_rows: int) -> Iterator[str]:
    if num_rows < facts.num_rows:
        yield f"Of the {facts.num_rows} rows of the {facts.name} set, {num_rows} were measured, chosen by the seed."
    elif num_rows < _FEW_ROWS:
        yield (
            f"The {facts.name} set has {num_rows} rows only: intervals of so few rows are rough; where all rows "
            f"agree, a share of up to {min(1, 3 / max(1, num_rows)):.0%} of other rows could still differ."
        )

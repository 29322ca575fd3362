"""What a report must admit: what was not measured, and what its numbers cannot say. Torch-free."""

from collections.abc import Iterator, Sequence

from soul_core.report import DataFacts, ModelMeasurements
from soul_core.spec import GENERAL, RETAIN, JobSpec

#: Bootstrap intervals of fewer rows are rough: they are too narrow.
_FEW_ROWS = 30


def limits_of(
    spec: JobSpec, data: Sequence[DataFacts], measured: ModelMeasurements, *, num_shared: int
) -> Iterator[str]:
    """Yield one sentence for each limit. `num_shared`: rows that forget and retain set have in common."""
    yield "Answers are the model's first choice (greedy decoding); sampling may bring out others."
    yield (
        "The forget questions are the rows trained on, in their own words: other wordings, other languages and "
        "longer conversations were not tried."
    )
    yield ("No attack was run: relearning, quantisation or special prompts may bring back what these rows do not show.")
    yield (
        "No model retrained without the forget set was given, so these numbers cannot say how a model that never saw "
        "it would answer."
    )
    sets = {facts.name for facts in data}
    if RETAIN not in sets:
        yield "No retain set was given: what else the model lost was not measured."
    if GENERAL not in sets:
        yield "No general text was given: abilities outside the data sets were not measured."
    for facts in data:
        num_rows = len(measured.rows.get(facts.name, ()))
        if num_rows < facts.num_rows:
            yield f"Of the {facts.num_rows} rows of the {facts.name} set, {num_rows} were measured, chosen by the seed."
        elif num_rows < _FEW_ROWS:
            yield (
                f"The {facts.name} set has {num_rows} rows only: intervals of so few rows are rough; where all rows "
                f"agree, a share of up to {min(1, 3 / max(1, num_rows)):.0%} of other rows could still differ."
            )
    if num_shared:
        yield f"{num_shared} questions of the forget set are asked in the retain set too: they pull both ways."
    if spec.evaluation.bootstrap == 0:
        yield "No confidence intervals were asked for: chance differences count as differences."

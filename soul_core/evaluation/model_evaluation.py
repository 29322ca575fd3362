"""Everything measured on one model. Torch-free."""

from collections.abc import Iterable, Mapping

from pydantic import Field

from soul_core.report import Finding, LeakFacts, ModelMeasurements, ReportModel, SetMetrics

#: Set -> row number -> a text that the model generated.
Answers = Mapping[str, Mapping[int, str]]


class AttackOutcome(ReportModel):
    """One attack on one model. Sets and metrics as in `AttackResult`, for this model alone."""

    attacked: dict[str, SetMetrics] = Field({})
    baseline: dict[str, SetMetrics] = Field({})
    rows: dict[str, tuple[int, ...]] = Field({})
    variants: dict[str, SetMetrics] = Field({})
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    absent_reason: str | None = None


class ModelEvaluation(ReportModel):
    """Everything measured on one model. An interrupted run resumes from its JSON, one file per set."""

    measurements: ModelMeasurements
    answers: Answers = Field({})
    preambles: Answers = Field({})
    """What the model generated before its answers; only rows where it did."""
    leaking_samples: Answers = Field({})
    """One sampled answer that states the fact, of rows whose answers the report shows."""
    attacks: dict[str, AttackOutcome] = Field({})
    """Label of the attack -> outcome."""

    def get_generated_texts(self) -> Answers:
        """Return all that the model generated for each row: preamble and answer."""
        return {
            name: {
                row: "\n".join(filter(None, (self.preambles.get(name, {}).get(row), answer)))
                for row, answer in answers.items()
            }
            for name, answers in self.answers.items()
        }

    def count_unfinished_answers(self) -> dict[str, int]:
        """Return, by set, the number of rows whose preamble took all tokens, so that no answer began."""
        counts = {
            name: sum(not self.answers[name][row] for row in preambles) for name, preambles in self.preambles.items()
        }
        return {name: count for name, count in counts.items() if count}


def join_sets(evaluations: Iterable[ModelEvaluation]) -> ModelEvaluation:
    """Return the evaluation of one model on all sets, from evaluations on different sets."""
    sets: dict[str, SetMetrics] = {}
    rows: dict[str, tuple[int, ...]] = {}
    answers: dict[str, Mapping[int, str]] = {}
    preambles: dict[str, Mapping[int, str]] = {}
    leaks: dict[str, LeakFacts] = {}
    leaking_samples: dict[str, Mapping[int, str]] = {}
    for evaluation in evaluations:
        sets |= evaluation.measurements.sets
        rows |= evaluation.measurements.rows
        answers |= evaluation.answers
        preambles |= evaluation.preambles
        leaks |= evaluation.measurements.leaks
        leaking_samples |= evaluation.leaking_samples
    return ModelEvaluation(
        measurements=ModelMeasurements(sets=sets, rows=rows, leaks=leaks),
        answers=answers,
        preambles=preambles,
        leaking_samples=leaking_samples,
    )

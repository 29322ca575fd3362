"""Hand-made results of inference, the input of every row metric."""

from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.observed import Continuation, GeneratedAnswer, InferenceResult, TokenScores

RESAMPLING = Resampling(num_resamples=200, confidence=0.95, seed=0)
NO_RESAMPLING = Resampling(num_resamples=0, confidence=0.95, seed=0)


def make_scores(*hit_rows: str, nll: float = 0.5, num_end: int = 0, z: float = 0.0) -> InferenceResult:
    """Return one row for each string: '1' is a first choice, '0' is not."""
    scores = tuple(
        TokenScores(i, (nll,) * len(hits), tuple(c == "1" for c in hits), num_end, (z,) * len(hits))
        for i, hits in enumerate(hit_rows, start=1)
    )
    return InferenceResult(rows=tuple(s.row for s in scores), scores=scores)


def make_answers(*pairs: tuple[str, str] | None, prompt: str = "") -> InferenceResult:
    """Return one row for each (expected, generated) answer to the same prompt; None is a row without an answer."""
    answers = tuple(
        pair and GeneratedAnswer(row=i, prompt=prompt, expected=pair[0], generated=pair[1])
        for i, pair in enumerate(pairs, start=1)
    )
    return InferenceResult(rows=tuple(range(1, len(pairs) + 1)), answers=answers)


def make_continuations(*pairs: tuple[str, str] | None, prefix: int = 100) -> InferenceResult:
    """Return one row for each (expected, generated) continuation; None is a row that is too short."""
    continuations = tuple(Continuation(i, *pair) if pair else None for i, pair in enumerate(pairs, start=1))
    return InferenceResult(rows=tuple(range(1, len(pairs) + 1)), continuations={prefix: continuations})


def get_row_values(metric: str, inference: InferenceResult) -> list[float | None]:
    """Return a metric's value of each row."""
    values = METRICS[metric](inference, NO_RESAMPLING).per_example
    assert values is not None
    return list(values)

"""How much of an answer's exact wording the model holds: exact memorization and extraction strength."""

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import InferenceResult
from soul_core.report import MetricValue


def exact_memorization(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the share of answer tokens that are the model's first choice under teacher forcing.

    Source: Tirumala et al. (arXiv:2205.10770), definition 1.
    Differs from the open-unlearning code: the end-of-answer token, which every chat model predicts, does not count.
    """
    rows = [s.content_hits for s in inference.scores]
    return summarize([sum(hits) / len(hits) if hits else None for hits in rows], resampling)


def extraction_strength(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return 1 - k/|a| for the smallest k such that the model, given the first k tokens, completes the rest exactly.

    Teacher-forced first choices suffice: greedy decoding completes a_k.. exactly if and only if every first choice
    from k on is right.
    Source: Carlini et al. (arXiv:2012.07805); the form of Wang et al. (arXiv:2406.09179).
    Differs from the published code, whose k stops one short of |a| so that the value never reaches 0; and the
    end-of-answer token does not count, for the same reason.
    """
    return summarize([_strength(s.content_hits) for s in inference.scores], resampling)


def _strength(hits: tuple[bool, ...]) -> float | None:
    if not hits:
        return None
    tail = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return tail / len(hits)

"""The table of row metrics: name -> pure function of what inference returned.

A new metric: write its function, add a line to `METRICS` and an entry to `soul_core.catalogue`, which describes it.
"""

from collections.abc import Callable
from functools import partial

from soul_core.catalogue.text_entries import MUSE_PREFIX_LENGTH
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.alternatives import choice_accuracy, probability_normalized, truth_ratio
from soul_core.metrics.keywords import keyword_recall
from soul_core.metrics.leaks import leak_at_k, leak_rouge_l_at_k, leaked_rows
from soul_core.metrics.likelihood import exact_memorization, extraction_strength, perplexity, probability
from soul_core.metrics.membership import gradient_norm, loss, min_k, min_k_plus, zlib
from soul_core.metrics.observed import InferenceResult
from soul_core.metrics.overlap import continuation_bleu, continuation_rouge_l, knowledge_memorization, rouge_l
from soul_core.metrics.refusals import refusal_rate
from soul_core.metrics.toxicity import toxicity
from soul_core.report import MetricValue

METRICS: dict[str, Callable[[InferenceResult, Resampling], MetricValue]] = {
    "probability": probability,
    "rouge_l": rouge_l,
    "keyword_recall": keyword_recall,
    "leak_at_k": leak_at_k,
    "leak_rouge_l_at_k": leak_rouge_l_at_k,
    "leaked_rows": leaked_rows,
    "exact_memorization": exact_memorization,
    "extraction_strength": extraction_strength,
    "perplexity": perplexity,
    "truth_ratio": truth_ratio,
    "probability_normalized": probability_normalized,
    "choice_accuracy": choice_accuracy,
    "loss": loss,
    "zlib": zlib,
    "min_k": min_k,
    "min_k_plus": min_k_plus,
    "gradient_norm": gradient_norm,
    "knowledge_memorization": knowledge_memorization,
    "continuation_rouge_l_100": partial(continuation_rouge_l, prefix=100),
    "continuation_bleu_100": partial(continuation_bleu, prefix=100),
    "continuation_rouge_l_300": partial(continuation_rouge_l, prefix=300),
    "continuation_bleu_300": partial(continuation_bleu, prefix=300),
    "verbatim_memorization": partial(continuation_rouge_l, prefix=MUSE_PREFIX_LENGTH),
    "toxicity": toxicity,
    "refusal_rate": refusal_rate,
}

"""Statistics of whole evaluations: two-sample Kolmogorov-Smirnov, ranks, harmonic mean. Pure functions of numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, rankdata

Floats = NDArray[np.float64]


def ks_p_value(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """Return the p-value of the two-sided two-sample Kolmogorov-Smirnov test (scipy, exact for small samples)."""
    return float(ks_2samp(first, second).pvalue)


def auc(positives: Sequence[float] | Floats, negatives: Sequence[float] | Floats) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties half.

    Source: the Mann-Whitney U statistic; equal samples give 0.5, separable ones 1.
    """
    num_positives, num_negatives = len(positives), len(negatives)
    if not num_positives or not num_negatives:
        raise ValueError("an AUC needs at least one positive and one negative")
    ranks = rankdata(np.concatenate([np.asarray(positives, float), np.asarray(negatives, float)]))
    u = ranks[:num_positives].sum() - num_positives * (num_positives + 1) / 2
    return float(u / (num_positives * num_negatives))


def tpr_at_fpr(positives: Sequence[float] | Floats, negatives: Sequence[float] | Floats, *, fpr: float) -> float:
    """Return the share of positives found by the lowest threshold that finds at most `fpr` of the negatives."""
    negatives_N = np.sort(np.asarray(negatives, float))[::-1]
    allowed = int(np.floor(fpr * len(negatives_N)))
    threshold = negatives_N[allowed] if allowed < len(negatives_N) else -np.inf
    return float((np.asarray(positives, float) > threshold).mean())


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean; 0 as soon as one value is 0: nothing makes up for a lost ability."""
    if any(value < 0 for value in values):
        raise ValueError("a harmonic mean is of values that are not negative")
    return 0.0 if any(value == 0 for value in values) else len(values) / sum(1 / value for value in values)

"""Statistics of samples: two-sample Kolmogorov-Smirnov, ranks, harmonic mean. Pure functions of numbers.

`resampled_*` functions return a statistic of B bootstrap samples at once; `index_BN` holds the row indices of each.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, rankdata

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def ks_p_value(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """Return the p-value of the two-sided two-sample Kolmogorov-Smirnov test (scipy, exact for small samples)."""
    return float(ks_2samp(first, second).pvalue)


@lru_cache(maxsize=4096)
def ks_p_value_of_gap(gap: int, num_rows: int) -> float:
    """Return the p-value for a largest gap of `gap` rows between two samples of `num_rows` rows each.

    Two evenly spaced samples, one shifted by `gap`, have exactly that gap; scipy does the rest.
    """
    even_N = np.arange(num_rows, dtype=np.float64)
    return 1.0 if gap == 0 else ks_p_value(even_N, even_N + gap - 0.5)


def resampled_ks_gap(first: Floats, second: Floats, index_BN: Indices) -> Indices:
    """Return the largest gap between the two samples' counts below a value, in rows, of each resample of row pairs."""
    num_rows = len(first)
    count_BN = _count_draws(index_BN, num_rows)
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    step_B2N = np.concatenate([count_BN, -count_BN], axis=1)[:, order].cumsum(axis=1)
    is_last_of_ties = np.append(np.diff(pooled[order]) > 0, True)
    gap_B: Indices = np.abs(step_B2N[:, is_last_of_ties]).max(axis=1)
    return gap_B


def auc(positives: Sequence[float] | Floats, negatives: Sequence[float] | Floats) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative; ties count half.

    Source: the Mann-Whitney U statistic; equal samples give 0.5, separable ones 1.
    """
    num_positives, num_negatives = len(positives), len(negatives)
    if not num_positives or not num_negatives:
        raise ValueError("an AUC needs at least one positive and one negative")
    ranks = rankdata(np.concatenate([np.asarray(positives, float), np.asarray(negatives, float)]))
    u = ranks[:num_positives].sum() - num_positives * (num_positives + 1) / 2
    return float(u / (num_positives * num_negatives))


def resampled_auc(positives: Floats, negatives: Floats, positive_BP: Indices, negative_BN: Indices) -> Floats:
    """Return the AUC of each resample; positives and negatives are resampled independently."""
    num_positives, num_negatives = len(positives), len(negatives)
    values, place = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
    positives_BV = _count_draws(place[:num_positives][positive_BP], len(values))
    negatives_BV = _count_draws(place[num_positives:][negative_BN], len(values))
    below_BV = negatives_BV.cumsum(axis=1) - negatives_BV / 2
    auc_B: Floats = (positives_BV * below_BV).sum(axis=1) / (num_positives * num_negatives)
    return auc_B


def resampled_tpr(
    positives: Floats, negatives: Floats, positive_BP: Indices, negative_BN: Indices, *, fpr: float
) -> Floats:
    """Return the fraction of positives above the lowest threshold that at most `fpr` of the negatives exceed.

    Positives and negatives are resampled independently.
    """
    negatives_BN = np.sort(negatives[negative_BN], axis=1)[:, ::-1]
    num_allowed = int(np.floor(fpr * len(negatives)))
    threshold_B1 = negatives_BN[:, num_allowed : num_allowed + 1] if num_allowed < len(negatives) else -np.inf
    tpr_B: Floats = (positives[positive_BP] > threshold_B1).mean(axis=1)
    return tpr_B


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean, which is 0 if any value is 0. Raises ValueError for a negative value."""
    if any(value < 0 for value in values):
        raise ValueError("a harmonic mean needs values of 0 or more")
    return 0.0 if any(value == 0 for value in values) else len(values) / sum(1 / value for value in values)


def _count_draws(index_BN: Indices, size: int) -> Indices:
    """Return how often each of `size` indices occurs in each row, (B, size)."""
    num_resamples = len(index_BN)
    flat = (index_BN + size * np.arange(num_resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=num_resamples * size).reshape(num_resamples, size)

"""Merges the weight changes of several trainings from one base. Pure functions of tensors, one parameter at a time."""

from collections.abc import Sequence

import torch


def merge_mean(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of the changes."""
    return torch.stack(list(deltas)).mean(0)


def merge_ties(deltas: Sequence[torch.Tensor], *, density: float) -> torch.Tensor:
    """Trim each change to its largest `density` fraction, elect a sign per weight, average the changes that agree.

    Source: TIES-Merging, Yadav et al. 2023, arXiv:2306.01708, section 4 and algorithm 1, with lambda = 1.
    Differs from the paper: the fraction is taken per parameter tensor, not over the complete model.
    """
    trimmed = torch.stack([_trim(delta, density) for delta in deltas])
    sign = torch.sign(trimmed.sum(0))
    agrees = (torch.sign(trimmed) == sign) & (trimmed != 0)
    return (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    num_kept = max(1, round(density * delta.numel()))
    threshold = delta.abs().flatten().kthvalue(delta.numel() - num_kept + 1).values
    return torch.where(delta.abs() >= threshold, delta, torch.zeros_like(delta))

"""Merge the weight changes of several trainings from one base. Pure functions of tensors, one parameter at a time."""

from collections.abc import Sequence

import torch


def merge_mean(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of the changes."""
    return torch.stack(list(deltas)).mean(0)


def merge_ties(deltas: Sequence[torch.Tensor], *, density: float) -> torch.Tensor:
    """Trim each change to its largest `density` share, elect a sign for each weight, average those that agree.

    Source: TIES-Merging, Yadav et al. 2023, arXiv:2306.01708, section 4 and algorithm 1, with lambda = 1.
    Differs from the paper: the share is taken of each parameter tensor, not of the whole model at once.
    """
    trimmed = torch.stack([_trim(change, density) for change in deltas])
    sign = torch.sign(trimmed.sum(0))
    agrees = (torch.sign(trimmed) == sign) & (trimmed != 0)
    return (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _trim(change: torch.Tensor, density: float) -> torch.Tensor:
    num_kept = max(1, round(density * change.numel()))
    threshold = change.abs().flatten().kthvalue(change.numel() - num_kept + 1).values
    return torch.where(change.abs() >= threshold, change, torch.zeros_like(change))

"""The forget prompts with refusals as their answers: what the terms `refusal` and `dpo` learn."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from soul_core.data.encoding import Example
from soul_core.models.loading import LoadedModel


def make_refusal_examples(
    forget: Sequence[Example], refusals: Sequence[str], loaded: LoadedModel, *, seed: int
) -> list[Example]:
    """Return the forget prompts with a refusal each as the answer, drawn by the seed; masks follow the refusal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(refusals), (len(forget),), generator=generator).tolist()
    return [replace_answer(example, refusals[choice], loaded) for example, choice in zip(forget, drawn, strict=True)]


def replace_answer(example: Example, answer: str, loaded: LoadedModel) -> Example:
    """Return the example's prompt with another answer."""
    assert example.source_row is not None, "only an example made of a row can be answered in another way"
    return loaded.encoder.encode(replace(example.source_row, completion=answer))

"""The forget prompts with refusals as their answers: what the terms `refusal` and `dpo` learn."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from soul_core.data.encoding import Example
from soul_core.models.loading import Loaded


def refusal_examples(forget: Sequence[Example], refusals: Sequence[str], loaded: Loaded, *, seed: int) -> list[Example]:
    """Return the forget prompts with a refusal each as the answer, drawn by the seed; masks follow the refusal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(refusals), (len(forget),), generator=generator).tolist()
    return [answered(example, refusals[choice], loaded) for example, choice in zip(forget, drawn, strict=True)]


def answered(example: Example, answer: str, loaded: Loaded) -> Example:
    """Return the example's prompt with another answer."""
    assert example.source is not None, "only an example made of a row can be answered in another way"
    return loaded.encoder.encode(replace(example.source, completion=answer))

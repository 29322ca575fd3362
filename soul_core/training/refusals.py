"""The forget prompts with refusals as their answers: what the terms `refusal` and `dpo` learn."""

from collections.abc import Sequence

import torch

from soul_core.examples import Example, answer_end_id
from soul_core.models.loading import Loaded


def refusal_examples(forget: Sequence[Example], refusals: Sequence[str], loaded: Loaded, *, seed: int) -> list[Example]:
    """Return the forget prompts with a refusal each as the answer, drawn by the seed; masks follow the refusal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(refusals), (len(forget),), generator=generator).tolist()
    return [answered(example, refusals[choice], loaded) for example, choice in zip(forget, drawn, strict=True)]


def answered(example: Example, answer: str, loaded: Loaded) -> Example:
    """Return the example's prompt with another answer."""
    lead = "" if loaded.tokenizer.chat_template else " "
    encoded = loaded.tokenizer.encode(lead + answer, add_special_tokens=False)
    token_ids = (*example.token_ids[: example.num_prompt], *encoded, answer_end_id(loaded.tokenizer))
    return Example(token_ids, example.num_prompt, example.row)

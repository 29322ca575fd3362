"""The forget prompts with refusals as their answers: what the term `refusal` learns."""

from collections.abc import Sequence

import torch

from soul_core.data import Example, answer_end_id
from soul_core.errors import BadData
from soul_core.models import Loaded
from soul_core.rows import Row
from soul_core.spec_terms import Refusal


def refusal_examples(forget: Sequence[Example], term: Refusal, loaded: Loaded, *, seed: int) -> list[Example]:
    """Return the forget prompts with a refusal each as the answer, drawn by the seed; masks follow the refusal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(term.refusals), (len(forget),), generator=generator).tolist()
    end_id = answer_end_id(loaded.tokenizer)
    lead = "" if loaded.tokenizer.chat_template else " "
    encoded = [loaded.tokenizer.encode(lead + text, add_special_tokens=False) for text in term.refusals]
    return [
        Example((*example.token_ids[: example.num_prompt], *encoded[choice], end_id), example.num_prompt, example.row)
        for example, choice in zip(forget, drawn, strict=True)
    ]


def check_refusable(
    rows: Sequence[Row], forget: Sequence[Example], term: Refusal, loaded: Loaded, *, seed: int, max_tokens: int
) -> None:
    """Raise BadData naming every forget row that cannot be answered with its refusal."""
    problems = [f"row {row.number}: plain text asks nothing that could be refused" for row in rows if not row.messages]
    problems += [
        f"row {example.row}: {len(example.token_ids)} tokens with its refusal, the limit is {max_tokens}"
        for example in refusal_examples(forget, term, loaded, seed=seed)
        if len(example.token_ids) > max_tokens
    ]
    if problems:
        raise BadData(
            f"forget set: {len(problems)} of {len(rows)} rows cannot be used with forget.kind 'refusal'; give prompts "
            "and answers and short refusals, or take 'npo'",
            details=tuple(problems),
        )

"""General web text: a retain set for users who have none."""

from pathlib import Path
from typing import Any

from soul_core.tasks.task import RecordsBySet, Task
from soul_core.tasks.texts import draw_items, read_web_documents

NUM_RETAIN_DOCUMENTS = 200

RECIPE: dict[str, Any] = {
    "retain": {"kind": "kl"},
    "training": {"steps": 20, "forget_batch": 4, "retain_batch": 4},
    "criteria": [
        {"set": "forget", "metric": "probability", "at_most": 0.25, "relative_to_base": True},
        {"set": "retain", "metric": "probability", "at_least": 0.8, "relative_to_base": True},
        {"set": "general", "metric": "perplexity", "at_most": 1.2, "relative_to_base": True},
    ],
}


def make_sets(data: Path, variant: str, seed: int) -> RecordsBySet:
    """Return documents to retain and others for perplexity."""
    retain, general = draw_items(read_web_documents(data), NUM_RETAIN_DOCUMENTS, seed=seed, item_name="web documents")
    return {"retain": retain, "general": general}


TASK = Task(
    name="general_text",
    title="General text to retain",
    description="200 web documents as a retain set and 100 others for perplexity, to use with your own forget set.",
    sets={"retain": "200 web documents", "general": "100 other web documents"},
    recipe=RECIPE,
    sources={
        "data": "C4, Raffel et al. 2020, arXiv:1910.10683; SOUL, arXiv:2404.18239, retains C4 in two of its tasks",
        "retain.kind": "KL to the base model, because text that the model never saw should not be learned; the KL term "
        "of TOFU, arXiv:2401.06121, section 3.2",
        "training.steps": "the default, because the right number depends on a forget set that the task does not know",
        "criteria": "the defaults (docs/reference/criteria.md) for plain text, and at most a fifth more perplexity",
    },
    make_sets=make_sets,
)

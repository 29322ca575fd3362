"""General text of the web: something to keep where nobody has a retain set of their own."""

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
    """Return documents to keep and others to measure perplexity on."""
    retain, general = draw_items(read_web_documents(data), NUM_RETAIN_DOCUMENTS, seed=seed, item_name="web documents")
    return {"retain": retain, "general": general}


TASK = Task(
    name="general_text",
    title="General text to keep",
    description="200 documents of the web as a retain set and 100 others for perplexity, to put beside a forget set of "
    "your own.",
    sets={"retain": "200 documents of the web", "general": "100 others"},
    recipe=RECIPE,
    sources={
        "data": "C4, Raffel et al. 2020, arXiv:1910.10683; SOUL, arXiv:2404.18239, retains C4 in two of its tasks",
        "retain.kind": "KL to the base model: text the model never saw should not be learned but left alone; the KL "
        "term of TOFU, arXiv:2401.06121, section 3.2",
        "training.steps": "the default: how long depends on a forget set that the task does not know",
        "criteria": "the defaults (docs/reference/criteria.md) that apply to plain text, and a fifth more perplexity",
    },
    make_sets=make_sets,
)

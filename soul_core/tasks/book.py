"""Forget a book: the model must not continue 200 passages from their first 100 and 300 tokens."""

from pathlib import Path
from typing import Any

from soul_core.errors import BadSpec
from soul_core.tasks.task import JsonObject, RecordsBySet, Task, read_text
from soul_core.tasks.texts import cut_passages, draw_items, read_web_documents

NUM_PASSAGES = 200

RECIPE: dict[str, Any] = {
    "forget": {"kind": "npo", "beta": 0.1},
    "retain": {"kind": "nll", "weight": 2.0},
    "optimizer": {"kind": "sophia", "lr": 5e-6, "weight_decay": 0.1},
    "training": {"epochs": 5, "forget_batch": 4, "retain_batch": 4},
    "evaluation": {
        "metrics": [
            "probability",
            "exact_memorization",
            "extraction_strength",
            "perplexity",
            "continuation_rouge_l_100",
            "continuation_bleu_100",
            "continuation_rouge_l_300",
            "continuation_bleu_300",
            "verbatim_memorization",
            "mia_min_k",
        ]
    },
    "criteria": [
        {"set": "forget", "metric": "continuation_rouge_l_100", "at_most": 0.25},
        {"set": "forget", "metric": "continuation_rouge_l_300", "at_most": 0.25},
        {"set": "retain", "metric": "probability", "at_least": 0.8, "relative_to_base": True},
        {"set": "general", "metric": "perplexity", "at_most": 1.2, "relative_to_base": True},
    ],
}


def make_sets(data: Path, variant: str, seed: int) -> RecordsBySet:
    """Return 200 passages of the book to forget, the other passages, and passages of other books."""
    folder = data / "books_public_domain"
    books = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if variant not in books:
        raise BadSpec(f"no book '{variant}' in {folder}; available: {', '.join(books) or 'none'}")
    forget, holdout = draw_items(_passages(books[variant]), NUM_PASSAGES, seed=seed, item_name=f"passages of {variant}")
    others = [row for name, path in books.items() if name != variant for row in _passages(path)]
    retain, _ = draw_items(others, 2 * NUM_PASSAGES, seed=seed, item_name="passages of other books")
    general, _ = draw_items(read_web_documents(data), NUM_PASSAGES // 2, seed=seed, item_name="web documents")
    return {"forget": forget, "retain": retain, "holdout": holdout, "general": general, "train": [*forget, *retain]}


def _passages(book: Path) -> list[JsonObject]:
    return [{"text": text, "book": book.stem} for text in cut_passages(read_text(book))]


TASK = Task(
    name="book",
    title="Forget a book",
    description="Forget 200 passages of a novel: given the first 100 or 300 tokens, the model must not continue as the "
    "book does. Each variant is a novel in the public domain; fine-tune the model on `train` first.",
    sets={
        "forget": "200 passages of the book, 360 words each",
        "retain": "400 passages of other books",
        "holdout": "the other passages of the same book, which the model was not trained on",
        "general": "100 web documents",
        "train": "forget and retain set: the training data of the target model",
    },
    recipe=RECIPE,
    sources={
        "data": "SOUL, arXiv:2404.18239, section 5.1: 200 passages, prefixes of 100 and 300 tokens, of a copyrighted "
        "series; our passages are counted in words because tokens depend on the model",
        "forget.beta": "Zhang et al. 2024, arXiv:2404.05868, section 5.2",
        "retain.weight": "as for TOFU, because SOUL released no configuration of this task",
        "optimizer.lr": "as for TOFU",
        "optimizer.weight_decay": "as for TOFU",
        "training.epochs": "as for TOFU",
        "training.forget_batch": "as for TOFU",
        "criteria": "ours: unrelated passages of one book have a ROUGE-L F1 of 0.13 to 0.14 on average and at most "
        "0.22 (docs/reference/tasks.md), so up to 0.25 a model is like one that does not know the book",
    },
    make_sets=make_sets,
    variants=(  # books with enough other passages for membership inference
        "dracula_345",
        "pride_and_prejudice_1342",
        "sherlock_holmes_1661",
    ),
)

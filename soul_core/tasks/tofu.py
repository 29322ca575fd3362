"""TOFU: forget 1, 5 or 10% of 200 fictitious authors on which the model was fine-tuned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soul_core.tasks.task import JsonObject, RecordsBySet, Task, read_json

#: Columns of the `_perturbed` files that truth ratio, choices and rephrased questions need.
_EXTRA_COLUMNS = ("paraphrased_answer", "perturbed_answer", "paraphrased_question")

RECIPE: dict[str, Any] = {
    "forget": {"kind": "npo", "beta": 0.1},
    "retain": {"kind": "nll", "weight": 2.0},
    "optimizer": {"kind": "sophia", "lr": 5e-6, "weight_decay": 0.1},
    "training": {"epochs": 5, "forget_batch": 4, "retain_batch": 4},
    "data": {"retain_held_out": 0},
    "evaluation": {
        "general_text": [],
        "metrics": [
            "probability",
            "probability_normalized",
            "rouge_l",
            "keyword_recall",
            "truth_ratio",
            "exact_memorization",
            "extraction_strength",
            "mia_min_k",
            "model_utility",
            "forget_quality",
            "privleak",
        ],
    },
    "criteria": [
        *(
            {"set": "forget", "metric": metric, "at_most": 0.25, "relative_to_base": True}
            for metric in ("probability", "keyword_recall")
        ),
        *(
            {"set": name, "metric": metric, "at_least": 0.8, "relative_to_base": True}
            for name, metric in (
                ("retain", "probability"),
                ("retain", "keyword_recall"),
                ("real_authors", "probability_normalized"),
                ("world_facts", "probability_normalized"),
            )
        ),
    ],
}


def make_sets(data: Path, variant: str, seed: int) -> RecordsBySet:
    """Return TOFU's sets for one split, with the perturbed files joined to the plain ones by question and answer.

    The seed is not used, because the splits are TOFU's own.
    """
    folder, share = data / "tofu", variant.removeprefix("forget")
    retain = f"retain{100 - int(share)}"
    forget = _join(read_json(folder / f"{variant}.json"), read_json(folder / f"{variant}_perturbed.json"))
    return {
        "forget": forget,
        "retain": _join(read_json(folder / f"{retain}.json"), read_json(folder / "retain_perturbed.json")),
        "holdout": _rows(read_json(folder / f"holdout{share}.json")),
        "rephrased": [
            {**row, "prompt": row["paraphrased_question"]} for row in forget if "paraphrased_question" in row
        ],
        "real_authors": _rows(read_json(folder / "real_authors_perturbed.json")),
        "world_facts": _rows(read_json(folder / "world_facts_perturbed.json")),
        "train": _rows(read_json(folder / "full.json")),
    }


def _join(plain: Sequence[JsonObject], perturbed: Sequence[JsonObject]) -> list[JsonObject]:
    perturbed_rows = {(row["question"], row["answer"]): row for row in perturbed}
    return _rows([perturbed_rows.get((row["question"], row["answer"]), row) for row in plain])


def _rows(records: Sequence[JsonObject]) -> list[JsonObject]:
    return [
        {"prompt": row["question"], "completion": row["answer"]}
        | {name: row[name] for name in _EXTRA_COLUMNS if name in row}
        for row in records
    ]


TASK = Task(
    name="tofu",
    title="TOFU: fictitious authors",
    description="Forget 1, 5 or 10% of 200 fictitious authors and retain the others, with all sets for forget quality "
    "and model utility. Fine-tune the model on `train` first.",
    sets={
        "forget": "questions about the authors to forget, with paraphrased and wrong answers",
        "retain": "questions about all other authors; 400 of them with paraphrased and wrong answers",
        "holdout": "questions about authors that the model was not trained on, for membership inference",
        "rephrased": "the forget questions in other words",
        "real_authors": "questions about real authors, with wrong answers",
        "world_facts": "general knowledge, with wrong answers",
        "train": "questions about all 200 authors: the training data of the target model",
    },
    recipe=RECIPE,
    sources={
        "data": "Maini et al. 2024, arXiv:2401.06121; the holdout authors: open-unlearning, arXiv:2506.12618",
        "forget.beta": "Zhang et al. 2024, arXiv:2404.05868, section 5.2",
        "retain.weight": "SOUL's released configuration for TOFU with Sophia and gradient difference",
        "optimizer.lr": "the same configuration, for a Llama-2 with 7 billion parameters; smaller models need more",
        "optimizer.weight_decay": "the same configuration",
        "data.retain_held_out": "TOFU's retain set is trained on completely; real authors and world facts are not",
        "criteria": "the defaults (docs/reference/criteria.md), with TOFU's own untrained sets for utility",
        "training.epochs": "the same configuration: 5 passes over the forget set",
        "training.forget_batch": "the same configuration: batches of 1, accumulated 4 times",
    },
    make_sets=make_sets,
    variants=("forget10", "forget05", "forget01"),
)

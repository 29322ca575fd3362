"""Personal data: forget some people of many, from questions and answers or from free text. Nobody is real."""

from pathlib import Path
from typing import Any

from soul_core.tasks.people import make_people, make_question_rows, make_text_rows
from soul_core.tasks.task import JsonObject, RecordsBySet, Task

NUM_PEOPLE = 50
NUM_FORGET_PEOPLE = 5
#: Never trained on.
NUM_HOLDOUT_PEOPLE = 5

RECIPE: dict[str, Any] = {
    "forget": {"kind": "npo", "beta": 0.1},
    "retain": {"kind": "nll", "weight": 10.0},
    "optimizer": {"kind": "sophia", "lr": 2e-5, "gamma": 4.0},
    "training": {"forget_batch": 4, "retain_batch": 4, "steps": 20},
    "evaluation": {
        "metrics": [
            "probability",
            "rouge_l",
            "keyword_recall",
            "truth_ratio",
            "exact_memorization",
            "extraction_strength",
            "perplexity",
            "mia_min_k",
        ],
        "max_new_tokens": 48,
        "probes": ["fill_in", "question", "adversarial"],
    },
    "criteria": [
        {"set": "forget", "metric": "probability", "at_most": 0.25, "relative_to_base": True},
        {"set": "rephrased", "metric": "keyword_recall", "at_most": 0.25, "relative_to_base": True},
        {"set": "retain", "metric": "probability", "at_least": 0.8, "relative_to_base": True},
    ],
}


def make_sets(data: Path, variant: str, seed: int) -> RecordsBySet:
    """Return the people's rows: one form is forgotten and kept, the other form of the forgotten people is measured."""
    everybody = make_people(NUM_PEOPLE, seed=seed)
    forgotten, kept = everybody[:NUM_FORGET_PEOPLE], everybody[NUM_FORGET_PEOPLE:-NUM_HOLDOUT_PEOPLE]
    unknown = everybody[-NUM_HOLDOUT_PEOPLE:]
    asked = {
        name: make_question_rows(people, everybody, seed=seed)
        for name, people in (("forget", forgotten), ("retain", kept), ("holdout", unknown))
    }
    told = {
        name: make_text_rows(people) for name, people in (("forget", forgotten), ("retain", kept), ("holdout", unknown))
    }
    main, other, other_name = (asked, told, "texts") if variant == "question_answer" else (told, asked, "questions")
    return {
        **main,
        other_name: other["forget"],
        "rephrased": [{**row, "prompt": row["paraphrased_question"]} for row in asked["forget"]],
        "train": [_canonical(row) for form in (asked, told) for name in ("forget", "retain") for row in form[name]],
    }


def _canonical(row: JsonObject) -> JsonObject:
    """Return a row in the one shape that holds questions and texts alike."""
    if "text" in row:
        return {"messages": [], "completion": row["text"]}
    return {"messages": [{"role": "user", "content": row["prompt"]}], "completion": row["completion"]}


TASK = Task(
    name="personal_data",
    title="Personal data",
    description="Forget 5 of 45 fictitious people: birthday, home, telephone, mail, work, illness, partner. Variant "
    "question_answer forgets questions, free_text a text about each person. The model must have been fine-tuned on "
    "`train` first.",
    sets={
        "forget": "the 5 people to forget: 40 questions, or 5 texts",
        "retain": "the 40 people to keep, in the same form",
        "holdout": "5 people nobody was trained on, in the same form",
        "texts": "question_answer: the texts about the forgotten people",
        "questions": "free_text: the questions about the forgotten people",
        "rephrased": "the questions about the forgotten people in other words",
        "train": "questions and texts of all 45: what the target model is fine-tuned on",
    },
    recipe=RECIPE,
    sources={
        "data": "ours: people made by a seed, after the idea of TOFU, arXiv:2401.06121",
        "forget.beta": "Zhang et al. 2024, arXiv:2404.05868, section 5.2",
        "retain.weight": "measured on SmolLM2-135M: decision 4",
        "optimizer.lr": "decision 4",
        "optimizer.gamma": "decision 4",
        "evaluation.probes": "RWKU, arXiv:2406.10890, section 3.3: what is gone must be gone however it is asked for",
        "criteria": "the defaults (docs/reference/criteria.md); recall is of the rephrased questions: texts ask none",
        "training.steps": "decision 4 needed 16; the texts are few, so the number does not follow from the rows",
    },
    make_sets=make_sets,
    variants=("question_answer", "free_text"),
)

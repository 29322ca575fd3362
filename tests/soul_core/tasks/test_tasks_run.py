"""Every variant of every task runs with few rows on a tiny model, from its files to a report."""

import json
from pathlib import Path
from typing import Any

import pytest

from soul_core.events import SilentListener
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.tasks import TASKS
from tests.fixtures.capitals import make_untrained_model

NUM_ROWS = 2
#: Words per text: 100 are more than the 300 tokens of the longest prefix; only forget rows are continued.
WORDS, FORGET_WORDS = 20, 100
#: Task -> the sets and metrics that it is about.
CHARACTERISTIC_METRICS = {
    "tofu": {"all": ("model_utility",), "forget": ("truth_ratio", "keyword_recall")},
    "book": {"forget": ("continuation_rouge_l_100", "continuation_bleu_300", "verbatim_memorization")},
    "detox": {"unseen": ("toxicity",), "truthfulqa": ("choice_accuracy",), "general": ("perplexity",)},
    "personal_data": {
        "retain": ("probability",),
        "rephrased": ("keyword_recall", "truth_ratio"),
        "forget_fill_in": ("keyword_recall",),
    },
    "general_text": {"general": ("perplexity",), "retain": ("probability",)},
}
#: Variant -> metrics: knowledge learned in one form is tested in the other; only questions have other wordings.
METRICS_BY_VARIANT = {
    "question_answer": {
        "forget": ("truth_ratio", "keyword_recall"),
        "texts": ("perplexity",),
        "forget_question": ("rouge_l",),
        "forget_adversarial": ("keyword_recall",),
    },
    "free_text": {"forget": ("probability", "perplexity"), "questions": ("keyword_recall",)},
}
VARIANTS = [(name, variant) for name, task in TASKS.items() for variant in task.variants or ("",)]


@pytest.fixture(scope="module")
def long_context_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with a context of 1024 tokens, for passages."""
    return make_untrained_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


def shorten(path: Path) -> Path:
    """Reduce a file to its shortest rows, those with wrong answers first (TOFU's retain set is measured on them).

    Texts are cut, so that only forget rows can be continued.
    """
    lines = sorted(path.read_text().splitlines(), key=lambda line: ("perturbed_answer" not in line, len(line)))
    rows = [json.loads(line) for line in lines[:NUM_ROWS]]
    for row in rows:
        if "text" in row:
            row["text"] = " ".join(row["text"].split()[: FORGET_WORDS if path.stem == "forget" else WORDS])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda key: " ".join(filter(None, key)))
def task_run(
    request: pytest.FixtureRequest,
    shared_data: Path,
    long_context_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, str, Report]:
    name, variant = request.param
    if name == "detox":
        pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    out = tmp_path_factory.mktemp(name)
    prepared = TASKS[name].prepare(shared_data, out, variant=variant or None)
    sets = {of_set: shorten(path) for of_set, path in prepared.files.items() if of_set != "train"}
    if "forget" not in sets:  # the task general_text needs a forget set of the user
        sets["forget"] = out / "forget.jsonl"
        sets["forget"].write_text(json.dumps({"prompt": "Who is the Queen?", "completion": "Alice is."}) + "\n")
    settings: dict[str, Any] = prepared.spec
    settings["training"] |= {"epochs": None, "steps": 2, "forget_batch": 2, "retain_batch": 2}
    settings["evaluation"] = settings.get("evaluation", {}) | {
        "max_new_tokens": 4,
        "bootstrap": 20,
        "num_answer_samples": 1,
    }
    spec = JobSpec.model_validate(settings | {"attacks": []})
    return (
        name,
        variant,
        run(spec, RunInputs(model=str(long_context_model), dataset_paths=sets), out / "out", listener=SilentListener()),
    )


def test_a_task_runs_from_its_files_to_a_report_with_its_metrics(
    task_run: tuple[str, str, Report],
) -> None:
    name, variant, report = task_run

    assert report.run.steps == 2
    for model in ("base", "unlearned"):
        for of_set, metrics in (CHARACTERISTIC_METRICS[name] | METRICS_BY_VARIANT.get(variant, {})).items():
            for metric in metrics:
                result = report.models[model].sets[of_set][metric]
                assert result.value is not None, f"{of_set} {metric}: {result.absent_reason}"


def test_every_criterion_of_a_task_has_a_value(task_run: tuple[str, str, Report]) -> None:
    *_, report = task_run

    assert [result.reason for result in report.criteria if result.value is None] == []

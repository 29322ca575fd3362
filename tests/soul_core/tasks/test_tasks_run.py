"""Every variant of every task runs, small: its sets and its ready spec on a tiny model, from first row to report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from soul_core.events import SilentListener
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.tasks import TASKS
from tests.fixtures.capitals import CHAT_TEMPLATE

NUM_ROWS = 2
#: Of a text: 240 words are the 300 tokens given and a few more to go on with; only the forget set is recited.
WORDS, FORGET_WORDS = 20, 240
#: Metric and set that make a task what it is.
TELLING = {
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
#: Knowledge learned in one form is asked for in the other; only questions can be asked in other ways.
OF_FORM = {
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
def tiny_reader(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that reads long passages: a context of 1024 tokens, words for tokens."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reader")
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    text = (shared_data / "books_public_domain" / "alice_wonderland_11.txt").read_text(encoding="utf-8")
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def shortened(path: Path) -> Path:
    """Keep the shortest rows; those with wrong answers first, for they are what TOFU's retain set is measured on.

    Texts are cut, so that only those to forget can be recited.
    """
    lines = sorted(path.read_text().splitlines(), key=lambda line: ("perturbed_answer" not in line, len(line)))
    rows = [json.loads(line) for line in lines[:NUM_ROWS]]
    for row in rows:
        if "text" in row:
            row["text"] = " ".join(row["text"].split()[: FORGET_WORDS if path.stem == "forget" else WORDS])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda key: " ".join(filter(None, key)))
def outcome(
    request: pytest.FixtureRequest, shared_data: Path, tiny_reader: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Report]:
    name, variant = request.param
    if name == "detox":
        pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    out = tmp_path_factory.mktemp(name)
    prepared = TASKS[name].prepare(shared_data, out, variant=variant or None)
    sets = {of_set: shortened(path) for of_set, path in prepared.files.items() if of_set != "train"}
    if "forget" not in sets:  # general text goes beside a forget set of one's own
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
        run(spec, RunInputs(model=str(tiny_reader), dataset_paths=sets), out / "out", listener=SilentListener()),
    )


def test_a_task_runs_from_its_files_to_a_verdict_and_measures_what_it_is_about(
    outcome: tuple[str, str, Report],
) -> None:
    name, variant, report = outcome

    assert report.run.steps == 2
    for model in ("base", "unlearned"):
        for of_set, metrics in (TELLING[name] | OF_FORM.get(variant, {})).items():
            for metric in metrics:
                found = report.models[model].sets[of_set][metric]
                assert found.value is not None, f"{of_set} {metric}: {found.absent_reason}"


def test_no_criterion_of_a_task_is_left_undecided_for_want_of_data(outcome: tuple[str, str, Report]) -> None:
    *_, report = outcome

    assert [one.reason for one in report.criteria if one.value is None] == []

"""The passes over a data set against plain computations, on a model that knows ten capitals."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tiny_architectures import build_tiny
from soul_core.data import Message, Row, read_rows
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import pack, pack_groups
from soul_core.errors import BadData
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.inference import _cut_to_first_turn, run_inference
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.plan import NUM_SHOTS, make_plan, read_other_answers
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import Listener, SilentListener
from soul_core.metrics.derived import add_derived_metrics
from soul_core.metrics.observed import GeneratedAnswer
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.packed_attention import PACKED_ATTENTION
from soul_core.models.scoring import score
from soul_core.spec import ALL, Evaluation
from tests.fixtures.architectures import PACKED_ARCHITECTURES
from tests.fixtures.capitals import COUNTRIES, answer, question, rows_of
from tests.paths import SHARED

TOFU = SHARED / "data" / "tofu"
MEMBERSHIP = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus", "mia_gradient_norm", "tpr_min_k")


@pytest.fixture(scope="module")
def loaded_model(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def make_set(loaded_model: LoadedModel, name: str, rows: list[Row]) -> EvaluationSet:
    return choose_rows(name, rows, encode_rows(rows, loaded_model.encoder, max_tokens=128), max_rows=400, seed=0)


def with_choices(country: str, *, paraphrase: bool = True) -> Row:
    wrong = [f"The capital is {city}." for city in ("Bern", "Accra")]
    extra: dict[str, Any] = {"perturbed_answer": wrong}
    if paraphrase:
        extra["paraphrased_answer"] = f"{COUNTRIES[country]} is the capital."
    return Row(7, (Message("user", question(country)),), answer(country), extra)


def evaluate(
    loaded_model: LoadedModel,
    sets: list[EvaluationSet],
    folder: Path,
    *metrics: str,
    tokens: int = 512,
    listener: Listener | None = None,
) -> ModelEvaluation:
    evaluation = Evaluation(metrics=metrics, max_new_tokens=16, bootstrap=50, num_answer_samples=0)
    return measure(
        loaded_model,
        sets,
        evaluation,
        seed=0,
        micro_batch_tokens=tokens,
        phase="baseline",
        listener=listener or SilentListener(),
        results_dir=folder,
    )


def plain_loss(loaded_model: LoadedModel, row: Row, text: str) -> float:
    """Return the mean NLL of one answer, scored alone."""
    (example,) = encode_rows([Row(1, row.messages, text)], loaded_model.encoder, max_tokens=128)
    with torch.no_grad():
        return -float(score(loaded_model.model, pack([example])).logp_P.mean())


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
@torch.no_grad()
def test_answers_that_share_a_prompt_score_as_each_one_alone(name: str) -> None:
    model = build_tiny(name, attn_implementation=PACKED_ATTENTION)
    generator = torch.Generator().manual_seed(0)
    draw: Callable[[int], list[int]] = lambda n: torch.randint(3, 300, (n,), generator=generator).tolist()  # noqa: E731
    groups = []
    for row, lengths in enumerate([(6, 3, 1, 5), (4, 2), (1, 7, 7)], start=1):
        prompt = draw(lengths[0])
        groups.append([Example((*prompt, *draw(length)), len(prompt), row) for length in lengths[1:]])
    together = score(model, pack_groups(groups))
    alone = torch.cat([score(model, pack([example])).logp_P for group in groups for example in group])
    assert together.num_sequences == 6
    torch.testing.assert_close(together.logp_P, alone, atol=1e-4, rtol=1e-4)


def test_the_prompt_of_a_row_is_stored_once(loaded_model: LoadedModel) -> None:
    forget = make_set(loaded_model, "forget", [with_choices("Peru")])
    (group,) = make_plan(
        forget, [forget], Evaluation(metrics=("truth_ratio",)), frozenset(), loaded_model
    ).answer_groups
    assert len(group) == 4
    answers = sum(len(example.token_ids) - example.num_prompt_tokens for example in group)
    assert pack_groups([group]).token_ids_1T.shape[1] == group[0].num_prompt_tokens + answers


@pytest.mark.parametrize("paraphrase", [True, False])
def test_truth_ratio_and_choices_equal_those_of_answers_scored_alone(
    loaded_model: LoadedModel, tmp_path: Path, *, paraphrase: bool
) -> None:
    row = with_choices("Peru", paraphrase=paraphrase)
    evaluation = evaluate(
        loaded_model,
        [make_set(loaded_model, "retain", [row, *rows_of(["Cuba"])])],
        tmp_path,
        *("truth_ratio", "probability_normalized", "choice_accuracy"),
    )
    values = evaluation.measurements.sets["retain"]
    right = plain_loss(loaded_model, row, row.completion)
    wrong = [plain_loss(loaded_model, row, text) for text in read_other_answers(row)[1]]
    paraphrased = plain_loss(loaded_model, row, row.extra["paraphrased_answer"]) if paraphrase else right
    ratio = math.exp(paraphrased - sum(wrong) / 2)
    fraction = math.exp(-right) / (math.exp(-right) + sum(math.exp(-loss) for loss in wrong))
    assert values["truth_ratio"].per_example == (pytest.approx(ratio, rel=1e-4), None)
    assert values["truth_ratio"].value == pytest.approx(max(0, 1 - ratio), rel=1e-4)
    assert values["probability_normalized"].per_example == (pytest.approx(fraction, rel=1e-5), None)
    assert values["choice_accuracy"].value == 1.0


def test_progress_counts_all_passes(loaded_model: LoadedModel, tmp_path: Path) -> None:
    class LastProgress(SilentListener):
        last: tuple[int, int] = (0, 0)

        def emit(self, kind: str, **data: Any) -> None:
            self.last = (data["done"], data["total"])

    listener = LastProgress()
    rows = [with_choices("Peru"), with_choices("Cuba")]
    metrics = ("rouge_l", "truth_ratio", "gradient_norm", "knowledge_memorization")
    evaluate(loaded_model, [make_set(loaded_model, "forget", rows)], tmp_path, *metrics, listener=listener)
    assert listener.last == (8, 8)


def test_without_wrong_answers_truth_ratio_is_absent(loaded_model: LoadedModel, tmp_path: Path) -> None:
    evaluation = evaluate(loaded_model, [make_set(loaded_model, "retain", rows_of(["Peru"]))], tmp_path, "truth_ratio")
    assert "perturbed_answer" in (evaluation.measurements.sets["retain"]["truth_ratio"].absent_reason or "")


@pytest.mark.parametrize("wrong", [["", "x"], {"a": 1}, [1, 2]])
def test_wrong_answers_that_are_not_text_are_refused_by_row(
    loaded_model: LoadedModel, tmp_path: Path, wrong: Any
) -> None:
    rows = [Row(3, (Message("user", "Why?"),), "Because.", {"perturbed_answer": wrong})]
    with pytest.raises(BadData, match="forget set") as caught:
        evaluate(loaded_model, [make_set(loaded_model, "forget", rows)], tmp_path, "truth_ratio")
    assert caught.value.details == ("row 3: perturbed_answer must be a list of texts",)


def test_a_csv_cell_may_hold_the_wrong_answers_as_json() -> None:
    assert read_other_answers(Row(1, (), "x", {"perturbed_answer": '["a", "b"]'})) == (None, ("a", "b"))
    assert read_other_answers(Row(1, (), "x", {"perturbed_answer": "a", "paraphrased_answer": "y"})) == ("y", ("a",))


def test_lack_of_memory_splits_a_group(
    loaded_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [make_set(loaded_model, "retain", [with_choices("Peru"), with_choices("Cuba")])]
    expected = evaluate(loaded_model, sets, tmp_path / "a", "truth_ratio").measurements.sets["retain"]["truth_ratio"]
    forward, refused = loaded_model.model.forward, []

    def run_out_of_memory(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 45:
            refused.append(kwargs["input_ids"].shape[1])
            raise torch.OutOfMemoryError("no more")
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded_model.model, "forward", run_out_of_memory)
    values = evaluate(loaded_model, sets, tmp_path / "b", "truth_ratio").measurements.sets["retain"]["truth_ratio"]
    assert len(refused) > 2  # both rows, then each alone
    assert values.per_example == pytest.approx(expected.per_example, rel=1e-4)


def test_standardized_losses_use_the_complete_vocabulary(loaded_model: LoadedModel) -> None:
    forget = make_set(loaded_model, "forget", rows_of(["Peru"]))
    plan = make_plan(forget, [forget], Evaluation(metrics=("min_k_plus",)), frozenset(), loaded_model)
    inference = run_inference(loaded_model, plan, max_new_tokens=1, micro_batch_tokens=99, on_progress=lambda *_: None)
    with torch.no_grad():
        scores = score(loaded_model.model, pack(forget.examples))
    logp_PV = scores.logits_PV.double().log_softmax(-1)
    mean_P = (logp_PV.exp() * logp_PV).sum(-1)
    deviation_P = ((logp_PV.exp() * logp_PV.square()).sum(-1) - mean_P.square()).clamp(min=1e-6).sqrt()
    expected = (mean_P - scores.logp_P.double()) / deviation_P
    assert inference.scores[0].standardized_nll == pytest.approx(expected.tolist(), rel=1e-2, abs=1e-4)


def test_gradient_norms_equal_those_of_single_rows_and_leave_no_gradients(
    loaded_model: LoadedModel, tmp_path: Path
) -> None:
    sets = [make_set(loaded_model, "forget", rows_of(["Peru", "Cuba"]))]
    frozen = next(loaded_model.model.parameters())
    frozen.requires_grad_(False)
    try:
        values = evaluate(loaded_model, sets, tmp_path, "gradient_norm").measurements.sets["forget"]["gradient_norm"]
        assert not frozen.requires_grad
    finally:
        frozen.requires_grad_(True)
    assert all(p.grad is None for p in loaded_model.model.parameters())
    for value, example in zip(values.per_example or (), sets[0].examples, strict=True):
        (-score(loaded_model.model, pack([example])).logp_P.mean()).backward()
        squares = [float(p.grad.square().sum()) for p in loaded_model.model.parameters() if p.grad is not None]
        loaded_model.model.zero_grad(set_to_none=True)
        assert value == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)


def test_every_membership_attack_finds_what_a_model_was_overfitted_on(
    loaded_model: LoadedModel, tmp_path: Path
) -> None:
    unknown = [
        Row(i, (Message("user", question(country)),), f"The capital is {city}.")
        for i, (country, city) in enumerate([("Ghana", "Accra"), ("Chad", "Lome"), ("Laos", "Male")], start=1)
    ]
    sets = [make_set(loaded_model, "forget", rows_of(list(COUNTRIES))), make_set(loaded_model, "holdout", unknown)]
    measurements = evaluate(loaded_model, sets, tmp_path, *MEMBERSHIP).measurements
    scores = add_derived_metrics(measurements, None, Evaluation(metrics=MEMBERSHIP, bootstrap=50), 0).sets["forget"]
    assert {name: scores[name].value for name in MEMBERSHIP} == dict.fromkeys(MEMBERSHIP, 1.0)


def test_few_shot_questions_follow_examples_that_are_other_questions(loaded_model: LoadedModel) -> None:
    facts = loaded_model.facts.model_copy(update={"context_tokens": 1000})
    loaded_model = replace(loaded_model, facts=facts)
    retain = make_set(loaded_model, "retain", rows_of(list(COUNTRIES)[:5]))
    forget = make_set(loaded_model, "forget", rows_of(list(COUNTRIES)[5:7]))
    evaluation = Evaluation(metrics=("knowledge_memorization",))
    for evaluation_set in (retain, forget):
        prompts = make_plan(evaluation_set, [forget, retain], evaluation, frozenset(), loaded_model).few_shot_prompts
        for i, ids in prompts.items():
            text = str(loaded_model.tokenizer.decode(ids))
            assert evaluation_set.rows[i].completion not in text
            assert text.count("The capital is") == NUM_SHOTS
            assert question(list(COUNTRIES)[i + (5 if evaluation_set is forget else 0)]) in text


def test_without_a_chat_template_a_few_shot_answer_ends_with_its_line(loaded_model: LoadedModel) -> None:
    answer_and_question = GeneratedAnswer(1, "Q", "Lima.", "Lima.\nWhat is the capital of Cuba?\nHavana.")
    tokenizer = copy.copy(loaded_model.tokenizer)
    tokenizer.chat_template = None
    assert _cut_to_first_turn(answer_and_question, replace(loaded_model, tokenizer=tokenizer)).generated == "Lima."
    assert _cut_to_first_turn(answer_and_question, loaded_model) == answer_and_question


def test_knowledge_memorization_of_a_single_question_is_absent(loaded_model: LoadedModel, tmp_path: Path) -> None:
    sets = [make_set(loaded_model, "forget", rows_of(["Peru"]))]
    values = evaluate(loaded_model, sets, tmp_path, "knowledge_memorization").measurements.sets["forget"]
    assert "few-shot examples" in (values["knowledge_memorization"].absent_reason or "")


@torch.no_grad()
def test_a_text_is_continued_by_at_most_the_tokens_it_has_left(loaded_model: LoadedModel) -> None:
    text = " ".join(answer(country) for country in COUNTRIES)
    general = make_set(loaded_model, "general", [Row(1, (), text), Row(2, (), "Too short.")])
    plan = make_plan(general, [general], Evaluation(metrics=("verbatim_memorization",)), frozenset(), loaded_model)
    ids = general.examples[0].token_ids
    plan = replace(plan, continuation_prompts={20: {0: ids[:21]}})
    inference = run_inference(loaded_model, plan, max_new_tokens=5, micro_batch_tokens=512, on_progress=lambda *_: None)
    first, second = inference.continuations[20]
    assert second is None
    assert first is not None
    assert first.expected == loaded_model.tokenizer.decode(ids[21:], skip_special_tokens=True)
    assert len(loaded_model.tokenizer.encode(first.generated)) <= len(ids) - 20


@pytest.mark.skipif(not TOFU.is_dir(), reason="../shared/data does not exist")
def test_tofu_rows_give_every_number_of_a_tofu_report(loaded_model: LoadedModel, tmp_path: Path) -> None:
    files = {"forget": "forget01_perturbed", "retain": "retain_perturbed", "real_authors": "real_authors_perturbed",
             "world_facts": "world_facts_perturbed"}  # fmt: skip
    short = LoadedModel(
        build_tiny("Llama", attn_implementation=PACKED_ATTENTION), loaded_model.tokenizer,
        loaded_model.facts.model_copy(update={"context_tokens": 4096}), loaded_model.device, loaded_model.compute_dtype,
    )  # fmt: skip
    short.model.resize_token_embeddings(len(loaded_model.tokenizer))
    sets = []
    for name, file in files.items():
        rows = read_rows(TOFU / f"{file}.json").require_valid_rows()[:3]
        examples = encode_rows(rows, loaded_model.encoder, max_tokens=4096)
        sets.append(choose_rows(name, rows, examples, max_rows=3, seed=0))
    holdout = json.loads((TOFU / "holdout01.json").read_text())[:3]
    rows = tuple(
        Row(i, (Message("user", record["question"]),), record["answer"]) for i, record in enumerate(holdout, start=1)
    )
    sets.append(
        choose_rows("holdout", rows, encode_rows(rows, loaded_model.encoder, max_tokens=4096), max_rows=3, seed=0)
    )
    metrics = ("truth_ratio", "mia_min_k", "forget_quality", "privleak", "model_utility")
    measurements = evaluate(short, sets, tmp_path, *metrics, tokens=2048).measurements
    report = add_derived_metrics(measurements, measurements, Evaluation(metrics=metrics, bootstrap=20), 0).sets
    assert report[ALL]["model_utility"].value is not None
    assert all(report["forget"][name].value is not None for name in metrics[:-1])
    assert report["world_facts"]["truth_ratio"].count == 3

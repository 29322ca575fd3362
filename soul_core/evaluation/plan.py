"""The plan of one data set: which rows are scored, answered and continued so that its metrics can be computed.

`measure` makes one plan per set, and `soul_core.evaluation.inference` runs it.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soul_core.catalogue import METRIC_CATALOG, NEEDS, Need, select_row_metrics
from soul_core.data import Row
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import count_shared_tokens
from soul_core.errors import BadData
from soul_core.evaluation.few_shot import make_turns
from soul_core.evaluation.row_selection import PERTURBED_COLUMN, EvaluationSet
from soul_core.metrics.observed import MAX_CONTINUATION_TOKENS
from soul_core.models.loading import LoadedModel
from soul_core.models.sampled_generation import SampleRequest, SampleSettings
from soul_core.spec import RETAIN, Evaluation

#: Few-shot examples before a question.
NUM_SHOTS = 4
#: Column of a row's right answer in other words.
PARAPHRASE_COLUMN = "paraphrased_answer"
#: Mean length of an answer as a fraction of the maximum; used only to estimate the time left.
_USUAL_LENGTH = 0.5
#: A sampled answer ends at this multiple of the expected answer's length, but not before a number of tokens.
_SAMPLE_LENGTHS, _MIN_SAMPLE_TOKENS = 2, 16

Prompts = Mapping[int, tuple[int, ...]]
"""Index of a row -> the model's input as tokens."""


@dataclass(frozen=True)
class EvaluationPlan:
    """All passes over one data set. Rows are identified by their index in `evaluation_set`."""

    evaluation_set: EvaluationSet
    metrics: tuple[str, ...]
    answer_groups: tuple[tuple[Example, ...], ...]
    """For each row: the expected answer, the paraphrase if it has one, the wrong answers."""
    answer_prompts: Prompts
    sample_requests: Mapping[int, SampleRequest]
    """Rows to which answers are sampled."""
    sample_settings: SampleSettings
    leak_k: int
    few_shot_prompts: Prompts
    continuation_prompts: Mapping[int, Prompts]
    """Tokens of the beginning -> prompts of the rows that are long enough."""
    missing_reasons: Mapping[Need, str]
    """What the set does not provide, and why."""
    needs_distribution: bool
    needs_gradients: bool

    def get_absent_reason(self, metric: str) -> str | None:
        """Return why a metric cannot be computed on this set; None if it can."""
        entry = METRIC_CATALOG[metric]
        if reasons := [self.missing_reasons[need] for need in entry.needs if need in self.missing_reasons]:
            return reasons[0]
        if entry.prefix_tokens and not self.continuation_prompts.get(entry.prefix_tokens):
            return f"no text of this set is longer than {entry.prefix_tokens} tokens"
        return None

    def estimate_work(self, max_new_tokens: int) -> tuple[int, float]:
        """Return the number of rows and an estimate of the tokens of all passes."""
        rows, tokens = len(self.answer_groups), 0.0
        for group in self.answer_groups:
            tokens += count_group_tokens(group)
            tokens += 3 * len(group[0].token_ids) if self.needs_gradients else 0  # backward costs twice a forward pass
        rows += len(self.answer_groups) * self.needs_gradients
        generations = [(self.answer_prompts, max_new_tokens), (self.few_shot_prompts, max_new_tokens)]
        generations += [(prompts, MAX_CONTINUATION_TOKENS) for prompts in self.continuation_prompts.values()]
        num_samples = self.sample_settings.num_samples * len(self.sample_settings.temperatures)
        for request in self.sample_requests.values():
            rows += 1
            tokens += len(request.prompt) + _USUAL_LENGTH * request.max_tokens * num_samples
        for prompts, max_tokens in generations:
            rows += len(prompts)
            tokens += sum(map(len, prompts.values())) + _USUAL_LENGTH * max_tokens * len(prompts)
        return rows, tokens


def count_group_tokens(group: Sequence[Example]) -> int:
    """Return the number of tokens of a group whose shared prompt is stored once."""
    return sum(len(example.token_ids) for example in group) - (len(group) - 1) * count_shared_tokens(group)


def make_plan(
    evaluation_set: EvaluationSet,
    sets: Sequence[EvaluationSet],
    evaluation: Evaluation,
    sample_row_numbers: frozenset[int],
    loaded: LoadedModel,
    *,
    seed: int = 0,
) -> EvaluationPlan:
    """Plan one set. Raises BadData, naming the rows, if paraphrased or wrong answers cannot be used."""
    metrics = select_row_metrics(evaluation.metrics, evaluation_set.name)
    examples = _select_few_shot_examples(evaluation_set, sets)
    missing = _find_missing_needs(evaluation_set, examples)
    needs = {need for metric in metrics for need in METRIC_CATALOG[metric].needs} - missing.keys()
    answered = [
        i
        for i, row in enumerate(evaluation_set.rows)
        if row.messages and ("answers" in needs or row.number in sample_row_numbers)
    ]
    prefixes = {METRIC_CATALOG[metric].prefix_tokens for metric in metrics} if "continuations" in needs else set()
    return EvaluationPlan(
        evaluation_set=evaluation_set,
        metrics=metrics,
        answer_groups=_encode_answer_groups(evaluation_set, loaded)
        if "perturbed" in needs
        else tuple((example,) for example in evaluation_set.examples),
        answer_prompts={i: _get_generation_prompt(evaluation_set, i, loaded) for i in answered},
        sample_requests=_make_sample_requests(evaluation_set, evaluation, loaded, seed) if "samples" in needs else {},
        sample_settings=SampleSettings(evaluation.leak_temperatures, evaluation.leak_samples, seed),
        leak_k=evaluation.leak_k,
        few_shot_prompts=_encode_few_shot_prompts(evaluation_set, examples, loaded) if "few_shot" in needs else {},
        continuation_prompts={
            prefix: _encode_beginnings(evaluation_set, prefix, loaded) for prefix in sorted(prefixes - {0})
        },
        missing_reasons=missing,
        needs_distribution="distribution" in needs,
        needs_gradients="gradients" in needs,
    )


def read_other_answers(row: Row) -> tuple[str | None, tuple[str, ...]]:
    """Return a row's paraphrase (or None) and its wrong answers. Raises ValueError if one is not text."""
    paraphrase, wrong = row.extra.get(PARAPHRASE_COLUMN), row.extra.get(PERTURBED_COLUMN)
    if isinstance(wrong, str) and wrong.startswith("["):  # a CSV cell
        wrong = json.loads(wrong)
    wrong = [wrong] if isinstance(wrong, str) else wrong or []
    if not (isinstance(wrong, list) and all(isinstance(text, str) and text.strip() for text in wrong)):
        raise ValueError(f"{PERTURBED_COLUMN} must be a list of texts")
    if paraphrase is not None and not (isinstance(paraphrase, str) and paraphrase.strip()):
        raise ValueError(f"{PARAPHRASE_COLUMN} must be text")
    return paraphrase, tuple(wrong)


def _find_missing_needs(evaluation_set: EvaluationSet, examples: Sequence[Row]) -> dict[Need, str]:
    missing: dict[Need, str] = {}
    if not evaluation_set.has_prompts:
        reason = f"it needs {NEEDS['answers']}; this set has none"
        missing |= {"answers": reason, "samples": reason, "few_shot": reason}
    elif len(examples) < 2:  # a row is never its own example
        missing["few_shot"] = "it needs other questions as few-shot examples; there are none"
    if evaluation_set.has_prompts:
        missing["text"] = missing["continuations"] = f"it needs {NEEDS['text']}; this set has prompts"
    if not any(row.messages and row.extra.get(PERTURBED_COLUMN) for row in evaluation_set.rows):
        missing["perturbed"] = f"it needs {NEEDS['perturbed']}; this set has none"
    return missing


def _get_generation_prompt(evaluation_set: EvaluationSet, index: int, loaded: LoadedModel) -> tuple[int, ...]:
    """Return what the model continues when it answers a row."""
    example, row = evaluation_set.examples[index], evaluation_set.rows[index]
    return example.generation_prompt_ids or loaded.encoder.encode_prompt(row)


def _make_sample_requests(
    evaluation_set: EvaluationSet, evaluation: Evaluation, loaded: LoadedModel, seed: int
) -> dict[int, SampleRequest]:
    """Select rows by the seed. A sample may be longer than the expected answer: the fact comes with other words."""
    asked = [i for i, row in enumerate(evaluation_set.rows) if row.messages]
    if len(asked) > evaluation.leak_examples:
        rng = random.Random(f"{seed} {evaluation_set.name} leaks")  # noqa: S311  not for secrets
        asked = sorted(rng.sample(asked, evaluation.leak_examples))
    requests = {}
    for i in asked:
        example = evaluation_set.examples[i]
        expected_tokens = len(example.token_ids) - example.num_prompt_tokens
        max_tokens = min(evaluation.leak_new_tokens, max(_MIN_SAMPLE_TOKENS, _SAMPLE_LENGTHS * expected_tokens))
        prompt = _get_generation_prompt(evaluation_set, i, loaded)
        requests[i] = SampleRequest(evaluation_set.rows[i].number, prompt, max_tokens)
    return requests


def _encode_answer_groups(evaluation_set: EvaluationSet, loaded: LoadedModel) -> tuple[tuple[Example, ...], ...]:
    """Encode the paraphrase and wrong answers of each row that has wrong ones, after the same prompt."""
    groups, problems = [], []
    for row, example in zip(evaluation_set.rows, evaluation_set.examples, strict=True):
        try:
            paraphrase, wrong = read_other_answers(row) if row.messages else (None, ())
        except ValueError as error:
            problems.append(f"row {row.number}: {error}")
            continue
        texts = [*([paraphrase] if paraphrase else []), *wrong] if wrong else []
        rows = [replace(row, completion=text) for text in texts]
        try:
            others = encode_rows(rows, loaded.encoder, max_tokens=loaded.facts.context_tokens)
        except BadData as error:
            problems += error.details
            continue
        groups.append((example, *others))
    if problems:
        raise BadData(
            f"{evaluation_set.name} set: {len(problems)} paraphrased or wrong answers cannot be used",
            details=tuple(problems),
        )
    return tuple(groups)


def _select_few_shot_examples(evaluation_set: EvaluationSet, sets: Sequence[EvaluationSet]) -> list[Row]:
    """Return the retain set's first questions, else the set's own: one more than are shown."""
    source = next((other for other in sets if other.name == RETAIN and other.has_prompts), evaluation_set)
    return [row for row in source.rows if row.messages][: NUM_SHOTS + 1]


def _encode_few_shot_prompts(
    evaluation_set: EvaluationSet, examples: Sequence[Row], loaded: LoadedModel
) -> dict[int, tuple[int, ...]]:
    """Return each question after few-shot examples, if both fit the context; a row is never its own example."""
    prompts = {}
    for i, row in enumerate(evaluation_set.rows):
        if not row.messages:
            continue
        others = [example for example in examples if example.messages != row.messages][:NUM_SHOTS]
        ids = loaded.encoder.encode_prompt(Row(row.number, (*make_turns(others), *row.messages), row.completion))
        if len(ids) < loaded.facts.context_tokens:
            prompts[i] = ids
    return prompts


def _encode_beginnings(evaluation_set: EvaluationSet, prefix: int, loaded: LoadedModel) -> dict[int, tuple[int, ...]]:
    """Return the first `prefix` tokens of each text that is longer."""
    prompts = {}
    for i, (row, example) in enumerate(zip(evaluation_set.rows, evaluation_set.examples, strict=True)):
        if row.messages:
            continue
        end = len(loaded.encoder.encode_prompt(row)) + prefix
        if len(example.token_ids) > end:
            prompts[i] = example.token_ids[:end]
    return prompts

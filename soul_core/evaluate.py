"""Measure one model on the data sets: one packed forward for all likelihoods of a set, answers in batches.

`run()` calls `measure` twice, for the base and for the unlearned model. Each finished set is kept as JSON, so a run
that was interrupted does not measure it again.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from soul_core.data import Example, answer_end_id, micro_batches, pack
from soul_core.durable import write_durably
from soul_core.errors import OutOfMemory
from soul_core.evaluation_rows import Answers, EvaluationSet, prompt_text, shown_rows
from soul_core.generation import generate
from soul_core.listener import Listener, Phase, stop_if_asked
from soul_core.metric_catalogue import CATALOGUE, NEEDS, Need
from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling, absent
from soul_core.metrics.observed import Observed, OwnAnswer, TokenScores
from soul_core.models import Loaded
from soul_core.report import MetricValue, ModelMeasurements, Part
from soul_core.scoring import score
from soul_core.spec import GENERAL, Evaluation

#: A progress event at most this often.
_EVENT_SECONDS = 0.5
#: Answers are shorter than they may be; for the estimate of the time left only.
_USUAL_SHARE = 0.5


class SetMeasured(Part):
    """All that is kept of one model on one set. `answers` is row number -> the model's own answer."""

    rows: tuple[int, ...]
    metrics: dict[str, MetricValue]
    answers: dict[int, str]


class Measured(Part):
    """All that is kept of one model."""

    sets: dict[str, SetMeasured]
    gaps: dict[str, dict[str, MetricValue]]

    def measurements(self) -> ModelMeasurements:
        """Return the part that goes into the report."""
        values = {name: one.metrics for name, one in self.sets.items()}
        return ModelMeasurements(sets=values | self.gaps, rows={name: one.rows for name, one in self.sets.items()})

    def answers(self) -> Answers:
        """Return the model's own answers."""
        return {name: one.answers for name, one in self.sets.items()}


def measure(
    loaded: Loaded,
    sets: Sequence[EvaluationSet],
    evaluation: Evaluation,
    *,
    seed: int,
    micro_batch_tokens: int,
    phase: Phase,
    listener: Listener,
    kept: Path,
) -> Measured:
    """Measure every metric of `evaluation` on every set; a set whose result lies in `kept` is read from there."""
    resampling = Resampling(evaluation.bootstrap, evaluation.confidence, seed)
    shown = shown_rows(sets, evaluation.side_by_side)
    results = {one.name: found for one in sets if (found := _read(kept / f"{one.name}.json"))}
    asked = {one.name: _rows_to_answer(one, evaluation, shown[one.name]) for one in sets}
    open_sets = [one for one in sets if one.name not in results]
    rows, work = _plan(open_sets, asked, evaluation)
    progress = _Progress(listener, phase, rows=rows, work=work)
    kept.mkdir(parents=True, exist_ok=True)
    for one in open_sets:
        observed = Observed(
            rows=tuple(row.number for row in one.rows),
            scores=tuple(_score(loaded, one, micro_batch_tokens, progress)),
            answers=_answer(loaded, one, asked[one.name], evaluation.max_new_tokens, progress),
        )
        results[one.name] = SetMeasured(
            rows=observed.rows,
            metrics={name: _value(name, one, observed, resampling) for name in evaluation.metrics},
            answers={answer.row: answer.given for answer in observed.answers if answer},
        )
        write_durably(kept / f"{one.name}.json", results[one.name].model_dump_json())
    return Measured(sets={one.name: results[one.name] for one in sets}, gaps=_gaps(sets, evaluation))


def _value(metric: str, one: EvaluationSet, observed: Observed, resampling: Resampling) -> MetricValue:
    missing: dict[Need, str] = {}
    if not one.has_prompts:
        missing["answers"] = f"it needs {NEEDS['answers']}; this set has none"
    if any(row.messages for row in one.rows):
        missing["text"] = f"it needs {NEEDS['text']}; this set has prompts"
    reasons = [missing[need] for need in CATALOGUE[metric].needs if need in missing]
    return absent(reasons[0]) if reasons else METRICS[metric](observed, resampling)


def _gaps(sets: Sequence[EvaluationSet], evaluation: Evaluation) -> dict[str, dict[str, MetricValue]]:
    """Say that metrics of plain text could not be taken where nobody gave any."""
    if any(one.name == GENERAL for one in sets):
        return {}
    texts = [name for name in evaluation.metrics if "text" in CATALOGUE[name].needs]
    return {GENERAL: dict.fromkeys(texts, absent(f"no {GENERAL} set was given"))} if texts else {}


@torch.no_grad()  # not inference_mode: buffers a model makes on the way must serve training too
def _score(loaded: Loaded, one: EvaluationSet, micro_batch_tokens: int, progress: "_Progress") -> list[TokenScores]:
    """Score every row's answer under teacher forcing; on lack of memory in smaller batches."""
    waiting = list(zip(one.rows, one.examples, strict=True))
    scores: list[TokenScores] = []
    while waiting:
        batch = waiting[: len(micro_batches([example for _, example in waiting], micro_batch_tokens)[0])]
        examples = [example for _, example in batch]
        num_tokens = sum(len(example.token_ids) for example in examples)
        try:
            nll_P, hit_P = _forward(loaded, examples)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise OutOfMemory(f"not enough memory to score one row of {num_tokens} tokens") from None
            micro_batch_tokens = num_tokens // 2
            torch.cuda.empty_cache()
            continue
        del waiting[: len(batch)]
        start = 0
        for row, example in batch:
            end = start + len(example.token_ids) - example.num_prompt
            scores.append(TokenScores(row.number, tuple(nll_P[start:end]), tuple(hit_P[start:end]), bool(row.messages)))
            start = end
        progress.tick(len(batch), num_tokens)
    return scores


def _forward(loaded: Loaded, examples: Sequence[Example]) -> tuple[list[float], list[bool]]:
    """Return each supervised token's NLL and whether it is the model's first choice."""
    with loaded.autocast():
        scores = score(loaded.model, pack(examples, loaded.device))
    hit_P = scores.logits_PV.argmax(-1) == scores.labels_P
    return (-scores.logp_P).tolist(), hit_P.tolist()


def _rows_to_answer(one: EvaluationSet, evaluation: Evaluation, shown: frozenset[int]) -> list[int]:
    """Return the indices of the rows the model answers by itself: all where a metric needs it, else those shown."""
    all_of_them = any("answers" in CATALOGUE[name].needs for name in evaluation.metrics)
    return [i for i, row in enumerate(one.rows) if row.messages and (all_of_them or row.number in shown)]


def _answer(
    loaded: Loaded, one: EvaluationSet, asked: Sequence[int], max_new_tokens: int, progress: "_Progress"
) -> tuple[OwnAnswer | None, ...]:
    prompts = [one.examples[i].token_ids[: one.examples[i].num_prompt] for i in asked]
    work = sum(map(len, prompts)) / max(1, len(prompts)) + _USUAL_SHARE * max_new_tokens
    # One cast of the weights for the whole generation, where training casts them anew after every step.
    bf16 = loaded.compute_dtype == torch.bfloat16
    with torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=bf16):
        continuations = generate(
            loaded.model,
            prompts,
            end_ids=end_ids(loaded),
            max_new_tokens=max_new_tokens,
            context_tokens=loaded.facts.context_tokens,
            tick=lambda num_rows: progress.tick(num_rows, num_rows * work),
        )
    answers: list[OwnAnswer | None] = [None] * len(one.rows)
    for i, tokens in zip(asked, continuations, strict=True):
        text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        row = one.rows[i]
        answers[i] = OwnAnswer(row.number, prompt_text(row), row.completion, str(text).strip())
    return tuple(answers)


def end_ids(loaded: Loaded) -> frozenset[int]:
    """Return every token that ends an answer: the one training teaches, and those the model came with."""
    config = getattr(loaded.model, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    found = {answer_end_id(loaded.tokenizer), loaded.tokenizer.eos_token_id}
    return frozenset(int(i) for i in found | set(own if isinstance(own, list) else [own]) if i is not None)


def _read(path: Path) -> SetMeasured | None:
    return SetMeasured.model_validate_json(path.read_text()) if path.exists() else None


class _Progress:
    """Counts rows through both passes, estimates the time left by tokens, and asks whether to stop."""

    def __init__(self, listener: Listener, phase: Phase, *, rows: int, work: float) -> None:
        self._listener, self._phase = listener, phase
        self._rows, self._work = rows, work
        self._done_rows, self._done_work = 0, 0.0
        self._started = self._told = time.monotonic()

    def tick(self, num_rows: int, work: float) -> None:
        """Count rows done. Raises Interrupted or Cancelled when asked to."""
        stop_if_asked(self._listener)
        self._done_rows += num_rows
        self._done_work += work
        now = time.monotonic()
        if num_rows and (now - self._told >= _EVENT_SECONDS or self._done_rows == self._rows):
            self._told = now
            left = max(0.0, self._work - self._done_work) / self._done_work * (now - self._started)
            self._listener.emit(
                "progress",
                phase=self._phase,
                done=self._done_rows,
                total=self._rows,
                unit="rows",
                eta_seconds=round(left, 1),
            )


def _plan(
    sets: Sequence[EvaluationSet], asked: Mapping[str, Sequence[int]], evaluation: Evaluation
) -> tuple[int, float]:
    """Return rows and tokens (an estimate) that the sets will take through both passes."""
    rows, work = 0, 0.0
    for one in sets:
        rows += len(one.rows) + len(asked[one.name])
        work += sum(len(example.token_ids) for example in one.examples)
        work += sum(one.examples[i].num_prompt + _USUAL_SHARE * evaluation.max_new_tokens for i in asked[one.name])
    return rows, work

"""The passes over one data set: likelihoods (one forward, prompts shared), gradients, own answers, continuations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from soul_core.data import Row
from soul_core.data.encoding import Example
from soul_core.data.packing import pack, pack_groups, split_micro_batches
from soul_core.errors import OutOfMemory
from soul_core.evaluation.plan import EvaluationPlan, Prompts, count_group_tokens, read_other_answers
from soul_core.evaluation.row_selection import format_prompt
from soul_core.metrics.observed import (
    MAX_CONTINUATION_TOKENS,
    AlternativeLosses,
    Continuation,
    GeneratedAnswer,
    InferenceResult,
    TokenScores,
)
from soul_core.models.generation import generate, get_end_ids
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import Scores, score

ProgressCallback = Callable[[int, float], None]
"""Told of rows and tokens done; may raise to stop."""

#: Positions whose distribution over the vocabulary is looked at together.
_POSITIONS_AT_ONCE = 512


def run_inference(
    loaded: LoadedModel,
    plan: EvaluationPlan,
    *,
    max_new_tokens: int,
    micro_batch_tokens: int,
    on_progress: ProgressCallback,
) -> InferenceResult:
    """Carry out a plan."""
    scored = _score(loaded, plan, micro_batch_tokens, on_progress)
    rows = plan.evaluation_set.rows
    return InferenceResult(
        rows=tuple(row.number for row in rows),
        set_name=plan.evaluation_set.name,
        expected_texts=tuple(row.completion for row in rows),
        scores=tuple(
            TokenScores(row.number, own.nll, own.hits, example.num_end_tokens, own.standardized)
            for row, example, (own, *_) in zip(rows, plan.evaluation_set.examples, scored, strict=True)
        ),
        alternatives=tuple(_others(plan, i, others) for i, (_, *others) in enumerate(scored)),
        gradient_norms=tuple(_gradient_norms(loaded, plan.evaluation_set.examples, on_progress))
        if plan.needs_gradients
        else (),
        answers=_answers(loaded, plan, plan.answer_prompts, max_new_tokens, on_progress),
        few_shot_answers=tuple(
            answer and _first_turn(answer, loaded)
            for answer in _answers(loaded, plan, plan.few_shot_prompts, max_new_tokens, on_progress)
        ),
        continuations={
            prefix: _continuations(loaded, plan, prompts, on_progress)
            for prefix, prompts in plan.continuation_prompts.items()
        },
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """One answer, token by token."""

    nll: tuple[float, ...]
    hits: tuple[bool, ...]
    standardized: tuple[float, ...]


@torch.no_grad()  # not inference_mode: buffers a model makes on the way must serve training too
def _score(
    loaded: LoadedModel, plan: EvaluationPlan, micro_batch_tokens: int, tick: ProgressCallback
) -> list[list[_Scored]]:
    """Score every answer of every row under teacher forcing; on lack of memory in smaller batches."""
    waiting = [(i, group) for i, group in enumerate(plan.answer_groups)]
    scored: list[list[_Scored]] = [[] for _ in plan.answer_groups]
    while waiting:
        batch = next(split_micro_batches(waiting, micro_batch_tokens, count_tokens=_tokens))
        num_tokens = sum(count_group_tokens(group) for _, group in batch)
        try:
            answers = iter(_forward(loaded, [group for _, group in batch], distribution=plan.needs_distribution))
        except torch.OutOfMemoryError:
            _make_room(loaded)
            if len(batch) > 1:
                micro_batch_tokens = num_tokens // 2
            else:
                waiting[:1] = _halves(*batch[0], num_tokens)
            continue
        del waiting[: len(batch)]
        for i, group in batch:
            scored[i] += [next(answers) for _ in group]
        tick(sum(len(scored[i]) == len(plan.answer_groups[i]) for i in {i for i, _ in batch}), num_tokens)
    return scored


def _forward(loaded: LoadedModel, groups: Sequence[Sequence[Example]], *, distribution: bool) -> list[_Scored]:
    """Return each answer's scores, group by group."""
    with loaded.autocast():
        scores = score(loaded.model, pack_groups(groups, loaded.device))
    nll_P, hit_P = (-scores.logp_P).tolist(), (scores.logits_PV.argmax(-1) == scores.labels_P).tolist()
    standardized_P = _standardize(scores).tolist() if distribution else []
    ends = scores.length_B.cumsum(0).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [_Scored(tuple(nll_P[part]), tuple(hit_P[part]), tuple(standardized_P[part])) for part in parts]


def _standardize(scores: Scores) -> torch.Tensor:
    """Return (NLL - mean) / deviation of each label over the model's own distribution at its place, (P,).

    Source: Zhang et al. (arXiv:2404.02936). The variance is at least 1e-6, as in the open-unlearning code: a model that
    is certain has no deviation to speak of.
    """
    parts = []
    for logits_CV, logp_C in zip(
        scores.logits_PV.split(_POSITIONS_AT_ONCE), scores.logp_P.split(_POSITIONS_AT_ONCE), strict=True
    ):
        logp_CV = logits_CV.log_softmax(-1)
        p_CV = logp_CV.exp()
        mean_C = (p_CV * logp_CV).sum(-1)
        variance_C = (p_CV * (logp_CV - mean_C[:, None]).square()).sum(-1)
        parts.append((mean_C - logp_C) / variance_C.clamp(min=1e-6).sqrt())
    return torch.cat(parts)


def _tokens(numbered: tuple[int, tuple[Example, ...]]) -> int:
    return count_group_tokens(numbered[1])


def _halves(row: int, group: tuple[Example, ...], num_tokens: int) -> list[tuple[int, tuple[Example, ...]]]:
    if len(group) == 1:
        raise OutOfMemory(f"not enough memory to score one row of {num_tokens} tokens")
    half = len(group) // 2
    return [(row, group[:half]), (row, group[half:])]


def _others(plan: EvaluationPlan, index: int, others: Sequence[_Scored]) -> AlternativeLosses | None:
    if not others:
        return None
    losses = [sum(other.nll) / len(other.nll) for other in others]
    paraphrase, _ = read_other_answers(plan.evaluation_set.rows[index])
    return AlternativeLosses(losses.pop(0) if paraphrase else None, tuple(losses))


def _gradient_norms(loaded: LoadedModel, examples: Sequence[Example], tick: ProgressCallback) -> Iterator[float]:
    """Yield the L2 norm of each row's gradient by all weights, also those that training leaves alone."""
    weights = [p for p in loaded.model.parameters() if p.is_floating_point()]
    wanted = [p.requires_grad for p in weights]
    try:
        for p in weights:
            p.requires_grad_(True)
        for example in examples:
            yield _gradient_norm(loaded, example, weights)
            tick(1, 3 * len(example.token_ids))
    finally:
        for p, want in zip(weights, wanted, strict=True):
            p.requires_grad_(want)


@torch.enable_grad()
def _gradient_norm(loaded: LoadedModel, example: Example, weights: Sequence[torch.Tensor]) -> float:
    try:
        with loaded.autocast():
            loss = -score(loaded.model, pack([example], loaded.device)).logp_P.mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    except torch.OutOfMemoryError:
        raise OutOfMemory(
            f"not enough memory for the gradient of one row of {len(example.token_ids)} tokens; leave gradient_norm out"
        ) from None
    return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))


def _answers(
    loaded: LoadedModel, plan: EvaluationPlan, prompts: Prompts, max_new_tokens: int, tick: ProgressCallback
) -> tuple[GeneratedAnswer | None, ...]:
    """Return the model's own answers along the set's rows; empty when nothing is asked."""
    if not prompts:
        return (None,) * len(plan.evaluation_set.rows)
    written = _write(loaded, prompts, max_new_tokens, tick)
    return tuple(
        _own_answer(row, loaded, written[i]) if i in written else None for i, row in enumerate(plan.evaluation_set.rows)
    )


def _own_answer(row: Row, loaded: LoadedModel, tokens: Sequence[int]) -> GeneratedAnswer:
    text = loaded.encoder.decode_answer(tokens)
    expected = loaded.encoder.get_expected_answer(row.completion)
    return GeneratedAnswer(row.number, format_prompt(row), expected, text.answer, text.preamble)


def _first_turn(answer: GeneratedAnswer, loaded: LoadedModel) -> GeneratedAnswer:
    """Return an answer after worked examples without what follows it: models without a chat template go on asking."""
    return answer if loaded.tokenizer.chat_template else replace(answer, generated=answer.generated.split("\n")[0])


def _continuations(
    loaded: LoadedModel, plan: EvaluationPlan, prompts: Prompts, tick: ProgressCallback
) -> tuple[Continuation | None, ...]:
    """Continue texts by as many tokens as they have left, at most CONTINUED_TOKENS."""
    written = _write(loaded, prompts, MAX_CONTINUATION_TOKENS, tick)
    continuations: list[Continuation | None] = [None] * len(plan.evaluation_set.rows)
    for i, tokens in written.items():
        start = len(prompts[i])
        expected = plan.evaluation_set.examples[i].token_ids[start : start + MAX_CONTINUATION_TOKENS]
        texts = (_text(loaded, expected), _text(loaded, tokens[: len(expected)]))
        continuations[i] = Continuation(plan.evaluation_set.rows[i].number, *texts)
    return tuple(continuations)


def _write(
    loaded: LoadedModel, prompts: Prompts, max_new_tokens: int, tick: ProgressCallback
) -> Mapping[int, list[int]]:
    """Return the greedy tokens after each prompt, under its index."""
    if not prompts:  # no text of the set is long enough to be continued
        return {}
    work = sum(map(len, prompts.values())) / len(prompts) + max_new_tokens / 2
    # One cast of the weights for the whole generation, where training casts them anew after every step.
    bf16 = loaded.compute_dtype == torch.bfloat16
    with torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=bf16):
        written = generate(
            loaded.model,
            list(prompts.values()),
            end_ids=get_end_ids(loaded),
            max_new_tokens=max_new_tokens,
            context_tokens=loaded.facts.context_tokens,
            on_progress=lambda num_rows: tick(num_rows, num_rows * work),
        )
    return dict(zip(prompts, written, strict=True))


def _text(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    return str(loaded.tokenizer.decode(tokens, skip_special_tokens=True))


def _make_room(loaded: LoadedModel) -> None:
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()

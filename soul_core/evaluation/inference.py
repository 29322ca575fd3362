"""The passes over one data set: likelihoods (one forward pass, prompts shared), gradients, answers, continuations."""

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
    SampledAnswers,
    TokenScores,
)
from soul_core.models.generation import generate, get_end_ids
from soul_core.models.loading import LoadedModel
from soul_core.models.sampled_generation import generate_samples
from soul_core.models.scoring import Scores, score

ProgressCallback = Callable[[int, float], None]
"""Called with the number of finished rows and tokens; may raise to stop."""

#: Positions whose distribution over the vocabulary is in memory at once.
_MAX_POSITIONS = 512


def run_inference(
    loaded: LoadedModel,
    plan: EvaluationPlan,
    *,
    max_new_tokens: int,
    micro_batch_tokens: int,
    on_progress: ProgressCallback,
) -> InferenceResult:
    """Run all passes of a plan. Raises OutOfMemory if a single row does not fit."""
    answer_scores = _score_answers(loaded, plan, micro_batch_tokens, on_progress)
    rows = plan.evaluation_set.rows
    return InferenceResult(
        rows=tuple(row.number for row in rows),
        set_name=plan.evaluation_set.name,
        expected_texts=tuple(row.completion for row in rows),
        scores=tuple(
            TokenScores(row.number, own.nll, own.hits, example.num_end_tokens, own.standardized)
            for row, example, (own, *_) in zip(rows, plan.evaluation_set.examples, answer_scores, strict=True)
        ),
        alternatives=tuple(
            _compute_alternative_losses(plan, i, others) for i, (_, *others) in enumerate(answer_scores)
        ),
        gradient_norms=tuple(_compute_gradient_norms(loaded, plan.evaluation_set.examples, on_progress))
        if plan.needs_gradients
        else (),
        answers=_generate_answers(loaded, plan, plan.answer_prompts, max_new_tokens, on_progress),
        samples=_generate_sampled_answers(loaded, plan, on_progress),
        leak_k=plan.leak_k,
        few_shot_answers=tuple(
            answer and _cut_to_first_turn(answer, loaded)
            for answer in _generate_answers(loaded, plan, plan.few_shot_prompts, max_new_tokens, on_progress)
        ),
        continuations={
            prefix: _generate_continuations(loaded, plan, prompts, on_progress)
            for prefix, prompts in plan.continuation_prompts.items()
        },
    )


@dataclass(frozen=True, slots=True)
class _AnswerScores:
    """The scores of one answer, token by token."""

    nll: tuple[float, ...]
    hits: tuple[bool, ...]
    standardized: tuple[float, ...]


@torch.no_grad()  # not inference_mode: buffers that a model creates here must work in training too
def _score_answers(
    loaded: LoadedModel, plan: EvaluationPlan, micro_batch_tokens: int, on_progress: ProgressCallback
) -> list[list[_AnswerScores]]:
    """Score every answer of every row under teacher forcing; when memory runs out, in smaller batches."""
    waiting = list(enumerate(plan.answer_groups))
    scores: list[list[_AnswerScores]] = [[] for _ in plan.answer_groups]
    while waiting:
        batch = next(
            split_micro_batches(waiting, micro_batch_tokens, count_tokens=lambda item: count_group_tokens(item[1]))
        )
        num_tokens = sum(count_group_tokens(group) for _, group in batch)
        try:
            batch_scores = iter(_score_groups(loaded, [group for _, group in batch], plan.needs_distribution))
        except torch.OutOfMemoryError:
            if loaded.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(batch) > 1:
                micro_batch_tokens = num_tokens // 2
            else:
                waiting[:1] = _split_group(*batch[0], num_tokens)
            continue
        del waiting[: len(batch)]
        for i, group in batch:
            scores[i] += [next(batch_scores) for _ in group]
        num_finished = sum(len(scores[i]) == len(plan.answer_groups[i]) for i in {i for i, _ in batch})
        on_progress(num_finished, num_tokens)
    return scores


def _score_groups(
    loaded: LoadedModel, groups: Sequence[Sequence[Example]], needs_distribution: bool
) -> list[_AnswerScores]:
    """Return each answer's scores, group by group."""
    with loaded.autocast():
        scores = score(loaded.model, pack_groups(groups, loaded.device))
    nll_P, hit_P = (-scores.logp_P).tolist(), (scores.logits_PV.argmax(-1) == scores.labels_P).tolist()
    standardized_P = _standardize(scores).tolist() if needs_distribution else []
    ends = scores.length_B.cumsum(0).tolist()
    positions = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [_AnswerScores(tuple(nll_P[p]), tuple(hit_P[p]), tuple(standardized_P[p])) for p in positions]


def _standardize(scores: Scores) -> torch.Tensor:
    """Return (NLL - mean) / deviation of each label, over the model's own distribution at its position, (P,).

    Source: Zhang et al. (arXiv:2404.02936). The variance is at least 1e-6, as in the open-unlearning code: if the model
    is certain the deviation is nearly 0.
    """
    parts = []
    for logits_CV, logp_C in zip(
        scores.logits_PV.split(_MAX_POSITIONS), scores.logp_P.split(_MAX_POSITIONS), strict=True
    ):
        logp_CV = logits_CV.log_softmax(-1)
        p_CV = logp_CV.exp()
        mean_C = (p_CV * logp_CV).sum(-1)
        variance_C = (p_CV * (logp_CV - mean_C[:, None]).square()).sum(-1)
        parts.append((mean_C - logp_C) / variance_C.clamp(min=1e-6).sqrt())
    return torch.cat(parts)


def _split_group(row: int, group: tuple[Example, ...], num_tokens: int) -> list[tuple[int, tuple[Example, ...]]]:
    if len(group) == 1:
        raise OutOfMemory(f"not enough memory to score one row of {num_tokens} tokens")
    half = len(group) // 2
    return [(row, group[:half]), (row, group[half:])]


def _compute_alternative_losses(
    plan: EvaluationPlan, index: int, alternatives: Sequence[_AnswerScores]
) -> AlternativeLosses | None:
    if not alternatives:
        return None
    losses = [sum(scores.nll) / len(scores.nll) for scores in alternatives]
    paraphrase, _ = read_other_answers(plan.evaluation_set.rows[index])
    return AlternativeLosses(losses.pop(0) if paraphrase else None, tuple(losses))


def _compute_gradient_norms(
    loaded: LoadedModel, examples: Sequence[Example], on_progress: ProgressCallback
) -> Iterator[float]:
    """Yield the L2 norm of each row's gradient with respect to all weights, frozen ones included."""
    weights = [parameter for parameter in loaded.model.parameters() if parameter.is_floating_point()]
    requires_grad = [parameter.requires_grad for parameter in weights]
    try:
        for parameter in weights:
            parameter.requires_grad_(True)
        for example in examples:
            yield _compute_gradient_norm(loaded, example, weights)
            on_progress(1, 3 * len(example.token_ids))
    finally:
        for parameter, required in zip(weights, requires_grad, strict=True):
            parameter.requires_grad_(required)


@torch.enable_grad()
def _compute_gradient_norm(loaded: LoadedModel, example: Example, weights: Sequence[torch.Tensor]) -> float:
    try:
        with loaded.autocast():
            loss = -score(loaded.model, pack([example], loaded.device)).logp_P.mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    except torch.OutOfMemoryError:
        raise OutOfMemory(
            f"not enough memory for the gradient of one row of {len(example.token_ids)} tokens; remove gradient_norm"
        ) from None
    return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))


def _generate_answers(
    loaded: LoadedModel, plan: EvaluationPlan, prompts: Prompts, max_new_tokens: int, on_progress: ProgressCallback
) -> tuple[GeneratedAnswer | None, ...]:
    """Return the model's own answer to each row; None for a row without a prompt."""
    tokens_by_row = _generate(loaded, prompts, max_new_tokens, on_progress)
    return tuple(
        _decode_answer(row, loaded, tokens_by_row[i]) if i in tokens_by_row else None
        for i, row in enumerate(plan.evaluation_set.rows)
    )


def _decode_answer(row: Row, loaded: LoadedModel, tokens: Sequence[int]) -> GeneratedAnswer:
    text = loaded.encoder.decode_answer(tokens)
    expected = loaded.encoder.get_expected_answer(row.completion)
    return GeneratedAnswer(row.number, format_prompt(row), expected, text.answer, text.preamble)


def _generate_sampled_answers(
    loaded: LoadedModel, plan: EvaluationPlan, on_progress: ProgressCallback
) -> tuple[SampledAnswers | None, ...]:
    """Sample answers to the rows that the plan selected; None for the other rows."""
    if not plan.sample_requests:
        return ()
    settings, requests = plan.sample_settings, list(plan.sample_requests.values())
    samples_per_row = settings.num_samples * len(settings.temperatures)
    work_per_sample = sum(len(request.prompt) / samples_per_row + request.max_tokens / 2 for request in requests)
    work_per_sample /= len(requests)
    num_done = 0

    def count_rows(num_samples: int) -> None:
        nonlocal num_done
        num_rows = (num_done + num_samples) // samples_per_row - num_done // samples_per_row
        num_done += num_samples
        on_progress(num_rows, num_samples * work_per_sample)

    with _autocast_for_generation(loaded):
        tokens_by_request = generate_samples(
            loaded.model,
            requests,
            settings,
            end_ids=get_end_ids(loaded),
            context_tokens=loaded.facts.context_tokens,
            on_progress=count_rows,
        )
    sampled = dict(zip(plan.sample_requests, tokens_by_request, strict=True))
    return tuple(
        _decode_samples(row, loaded, sampled[i]) if i in sampled else None
        for i, row in enumerate(plan.evaluation_set.rows)
    )


def _decode_samples(row: Row, loaded: LoadedModel, tokens: Mapping[float, Sequence[Sequence[int]]]) -> SampledAnswers:
    texts = {tuple(ids): loaded.encoder.decode_answer(ids) for samples in tokens.values() for ids in samples}
    joined = {ids: "\n".join(filter(None, (text.preamble, text.answer))) for ids, text in texts.items()}
    return SampledAnswers(
        row.number,
        format_prompt(row),
        loaded.encoder.get_expected_answer(row.completion),
        {temperature: tuple(joined[tuple(ids)] for ids in samples) for temperature, samples in tokens.items()},
    )


def _cut_to_first_turn(answer: GeneratedAnswer, loaded: LoadedModel) -> GeneratedAnswer:
    """Return an answer without what follows it: a model without a chat template writes further questions."""
    return answer if loaded.tokenizer.chat_template else replace(answer, generated=answer.generated.split("\n")[0])


def _generate_continuations(
    loaded: LoadedModel, plan: EvaluationPlan, prompts: Prompts, on_progress: ProgressCallback
) -> tuple[Continuation | None, ...]:
    """Continue texts by as many tokens as they have left, at most MAX_CONTINUATION_TOKENS."""
    tokens_by_row = _generate(loaded, prompts, MAX_CONTINUATION_TOKENS, on_progress)
    continuations: list[Continuation | None] = [None] * len(plan.evaluation_set.rows)
    for i, tokens in tokens_by_row.items():
        start = len(prompts[i])
        expected = plan.evaluation_set.examples[i].token_ids[start : start + MAX_CONTINUATION_TOKENS]
        texts = (_decode(loaded, expected), _decode(loaded, tokens[: len(expected)]))
        continuations[i] = Continuation(plan.evaluation_set.rows[i].number, *texts)
    return tuple(continuations)


def _generate(
    loaded: LoadedModel, prompts: Prompts, max_new_tokens: int, on_progress: ProgressCallback
) -> Mapping[int, list[int]]:
    """Return the greedy tokens after each prompt, by the prompt's index."""
    if not prompts:
        return {}
    work_per_row = sum(map(len, prompts.values())) / len(prompts) + max_new_tokens / 2
    with _autocast_for_generation(loaded):
        token_lists = generate(
            loaded.model,
            list(prompts.values()),
            end_ids=get_end_ids(loaded),
            max_new_tokens=max_new_tokens,
            context_tokens=loaded.facts.context_tokens,
            on_progress=lambda num_rows: on_progress(num_rows, num_rows * work_per_row),
        )
    return dict(zip(prompts, token_lists, strict=True))


def _autocast_for_generation(loaded: LoadedModel) -> torch.autocast:
    """Return a context with one cast of the weights, where training casts them again after every step."""
    bf16 = loaded.compute_dtype == torch.bfloat16
    return torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=bf16)


def _decode(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    return str(loaded.tokenizer.decode(tokens, skip_special_tokens=True))

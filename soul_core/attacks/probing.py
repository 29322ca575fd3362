"""Probing: what the layers below the last reveal of the answer (logit lens).

Source: nostalgebraist 2020, "interpreting GPT: the logit lens": a layer's hidden states through the model's own final
norm and vocabulary projection; applied to unlearned models by Patil et al. (arXiv:2309.17410).
Differs from a trained probe: nothing is trained, so what is not found here may still be present in another basis.
"""

import time
from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import cross_entropy

from soul_core.attacks.context import (
    AttackContext,
    AttackNotPossible,
    compute_worst_case,
    get_row_numbers,
)
from soul_core.attacks.hidden_states import HiddenStateRecorder
from soul_core.data.packing import pack
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.events import raise_if_stop_requested
from soul_core.metrics import METRICS
from soul_core.metrics.observed import InferenceResult, TokenScores
from soul_core.models.forward_calls import make_forward_calls, select_positions
from soul_core.models.layers import find_decoder_layers
from soul_core.models.scoring import score
from soul_core.report import MetricValue, SetMetrics
from soul_core.spec import FORGET
from soul_core.spec.attacks import Probing
from soul_core.training.base_scores import VocabularyProjection
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher

#: What can be measured at a layer: likelihoods only, since it generates no answers.
LAYER_METRICS = ("probability", "exact_memorization", "extraction_strength")
#: Fraction of the largest logit: bfloat16 rounds less, and another computation differs by far more.
_TOLERANCE = 0.02

#: Index among the selected forget rows -> scores of its answer at one layer.
LayerScores = dict[int, TokenScores]


def run_probing(context: AttackContext, spec: Probing) -> AttackOutcome:
    """Score the forget answers at each chosen layer; under attack, each row has its best layer's value."""
    num_layers = len(find_decoder_layers(context.loaded.model))
    layers = choose_layers(spec, num_layers)
    variants = {
        f"layer {number}": _compute_metrics(context, scores)
        for number, scores in _score_layers(context, layers, last_layer=num_layers - 1).items()
    }
    note = (
        f"Layers {', '.join(map(str, layers))} of {num_layers}, counted from 0, through the model's own final norm and "
        "output embedding. A layer that reveals nothing this way may still hold it in a form that only a trained probe "
        "reads."
    )
    return AttackOutcome(
        attacked={
            FORGET: {
                name: _compute_best_layer([metrics[name] for metrics in variants.values()], context)
                for name in LAYER_METRICS
            }
        },
        baseline={FORGET: {name: value for name, value in context.baseline_metrics.items() if name in LAYER_METRICS}},
        rows={FORGET: get_row_numbers(context.forget_selection)},
        variants=variants,
        notes=(note,),
    )


def choose_layers(spec: Probing, num_layers: int) -> list[int]:
    """Return the layers to read, in order: those of the spec, else a quarter, half, three quarters and the last.

    Raises AttackNotPossible, naming the layer, if the model does not have it.
    """
    if missing := [number for number in spec.layers if number >= num_layers]:
        raise AttackNotPossible(f"there is no layer {missing[0]}: the model has {num_layers}, counted from 0")
    return sorted(set(spec.layers) or {max(1, round(num_layers * part / 4)) - 1 for part in (1, 2, 3, 4)})


@torch.no_grad()
def _score_layers(context: AttackContext, layers: Sequence[int], *, last_layer: int) -> dict[int, LayerScores]:
    """Return layer -> scores. Raises AttackNotPossible if the last layer does not give the model's own logits."""
    loaded, started_at = context.loaded, time.monotonic()
    scores_by_layer: dict[int, LayerScores] = {number: {} for number in layers}
    projection = VocabularyProjection.from_model(loaded)
    units: list[BatchUnit] = [
        (BatchItem("forget", index, example),) for index, example in enumerate(context.forget_selection.examples)
    ]

    def score_batch(items: list[BatchItem]) -> None:
        raise_if_stop_requested(context.listener)
        batch = pack([item.example for item in items], loaded.device)
        with HiddenStateRecorder(loaded.model, [*layers, last_layer]) as recorder, loaded.autocast():
            scores = score(loaded.model, batch)
        calls = make_forward_calls(loaded.model, batch)
        for number in [last_layer, *layers]:
            hidden_PD = select_positions(calls, recorder.hidden_states[number])
            with loaded.autocast():
                normed_PD = recorder.final_norm(hidden_PD[None])[0]
                logits_PV = projection(normed_PD.to(loaded.compute_dtype))
            if number == last_layer:
                _require_equal_logits(logits_PV, scores.logits_PV)
            if number in scores_by_layer:
                nll_P = cross_entropy(logits_PV, batch.labels_P, reduction="none").tolist()
                hit_P = (logits_PV.argmax(-1) == batch.labels_P).tolist()
                scores_by_layer[number] |= _split_by_row(context, items, nll_P, hit_P)
        context.report_progress(started_at, num_done=items[-1].index + 1, num_total=len(units))

    MicroBatcher(context.spec.training.micro_batch_tokens, context.listener).run(units, score_batch, undo=lambda: None)
    return scores_by_layer


def _require_equal_logits(ours_PV: torch.Tensor, logits_PV: torch.Tensor) -> None:
    tolerance = _TOLERANCE * float(logits_PV.abs().amax().clamp(min=1))
    if not float((ours_PV - logits_PV).abs().amax()) <= tolerance:
        raise AttackNotPossible("the model computes its logits in another way than by final norm and output embedding")


def _split_by_row(
    context: AttackContext, items: Sequence[BatchItem], nll_P: Sequence[float], hit_P: Sequence[bool]
) -> LayerScores:
    """Return each row's own positions of a batch."""
    scores: LayerScores = {}
    start = 0
    for item in items:
        end = start + len(item.example.token_ids) - item.example.num_prompt_tokens
        scores[item.index] = TokenScores(
            context.forget_selection.rows[item.index].number,
            tuple(nll_P[start:end]),
            tuple(hit_P[start:end]),
            num_end=item.example.num_end_tokens,
        )
        start = end
    return scores


def _compute_metrics(context: AttackContext, scores: Mapping[int, TokenScores]) -> SetMetrics:
    inference = InferenceResult(
        rows=get_row_numbers(context.forget_selection),
        scores=tuple(scores[i] for i in range(len(context.forget_selection.rows))),
    )
    return {name: METRICS[name](inference, context.resampling) for name in LAYER_METRICS}


def _compute_best_layer(values: Sequence[MetricValue], context: AttackContext) -> MetricValue:
    """Aggregate each row's largest value over the layers."""
    absent = next((value for value in values if value.value is None), None)
    if absent is not None:
        return absent
    return compute_worst_case((value.per_example or () for value in values), context.resampling)

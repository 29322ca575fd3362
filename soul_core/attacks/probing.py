"""Probing: what the layers below the last still say of the answer (logit lens).

Source: nostalgebraist 2020, "interpreting GPT: the logit lens": a layer's hidden states through the model's own final
norm and vocabulary projection; applied to unlearned models by Patil et al. (arXiv:2309.17410).
Differs from a trained probe: nothing is learned, so what is not found here may still be there in another basis.
"""

import time

import torch
from torch.nn.functional import cross_entropy

from soul_core.attacks.context import (
    AttackContext,
    AttackNotPossible,
    AttackOutcome,
    compute_worst_case,
    get_row_numbers,
)
from soul_core.attacks.hidden_states import HiddenStateRecorder
from soul_core.data.packing import pack
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

#: What can be said of a layer: likelihoods only, since it writes no answers.
LAYER_METRICS = ("probability", "exact_memorization", "extraction_strength")
_TOLERANCE = 0.02  # of the largest logit: bfloat16 rounds; another computation is far off

LayerScores = dict[int, TokenScores]  # place among the forget rows -> what a layer says of its answer


def run_probing(context: AttackContext, spec: Probing) -> AttackOutcome:
    """Score the forget answers at each chosen layer; under the attack each row has the best of them."""
    layers = choose_layers(spec, len(find_decoder_layers(context.loaded.model)))
    by_layer = _read(context, layers)
    variants = {f"layer {number}": _metrics(context, of_layer) for number, of_layer in by_layer.items()}
    return AttackOutcome(
        attacked={FORGET: {name: _best([one[name] for one in variants.values()], context) for name in LAYER_METRICS}},
        baseline={FORGET: {name: value for name, value in context.baseline_metrics.items() if name in LAYER_METRICS}},
        rows={FORGET: get_row_numbers(context.forget_selection)},
        variants=variants,
        notes=(_note(layers, len(find_decoder_layers(context.loaded.model))),),
    )


def _note(layers: list[int], num_layers: int) -> str:
    return (
        f"Layers {', '.join(map(str, layers))} of {num_layers}, counted from 0, through the model's own final norm and "
        "output embedding. A layer that says nothing this way may still hold it in a form that only a trained probe "
        "reads."
    )


def choose_layers(spec: Probing, num_layers: int) -> list[int]:
    """Return the layers to read, in order: those of the spec, else a quarter, half, three quarters and the last.

    Raises NotPossibleError naming a layer the model has not.
    """
    if beyond := [number for number in spec.layers if number >= num_layers]:
        raise AttackNotPossible(f"there is no layer {beyond[0]}: the model has {num_layers}, counted from 0")
    return sorted(set(spec.layers) or {max(1, round(num_layers * part / 4)) - 1 for part in (1, 2, 3, 4)})


@torch.no_grad()
def _read(scene: AttackContext, layers: list[int]) -> dict[int, LayerScores]:
    loaded, started = scene.loaded, time.monotonic()
    by_layer: dict[int, LayerScores] = {number: {} for number in layers}
    projection = VocabularyProjection.from_model(loaded)
    last = len(find_decoder_layers(loaded.model)) - 1
    units: list[BatchUnit] = [
        (BatchItem("forget", place, example),) for place, example in enumerate(scene.forget_selection.examples)
    ]

    def work(items: list[BatchItem]) -> None:
        raise_if_stop_requested(scene.listener)
        packed = pack([item.example for item in items], loaded.device)
        with HiddenStateRecorder(loaded.model, [*layers, last]) as watcher, loaded.autocast():
            scores = score(loaded.model, packed)
        calls = make_forward_calls(loaded.model, packed)
        for number in [last, *layers]:
            hidden_PD = select_positions(calls, watcher.hidden_states[number])
            with loaded.autocast():
                normed_PD = watcher.final_norm(hidden_PD[None])[0]
                logits_PV = projection(normed_PD.to(loaded.compute_dtype))
            if number == last:
                _check(logits_PV, scores.logits_PV)
            if number in by_layer:
                nll_P = cross_entropy(logits_PV, packed.labels_P, reduction="none").tolist()
                hit_P = (logits_PV.argmax(-1) == packed.labels_P).tolist()
                _share_out(scene, items, nll_P, hit_P, by_layer[number])
        scene.report_progress(started, num_done=items[-1].index + 1, num_total=len(units))

    MicroBatcher(scene.spec.training.micro_batch_tokens, scene.listener).run(units, work, undo=lambda: None)
    return by_layer


def _check(ours_PV: torch.Tensor, logits_PV: torch.Tensor) -> None:
    tolerance = _TOLERANCE * float(logits_PV.abs().amax().clamp(min=1))
    if not float((ours_PV - logits_PV).abs().amax()) <= tolerance:
        raise AttackNotPossible("the model makes its logits in another way than final norm and output embedding")


def _share_out(
    scene: AttackContext, items: list[BatchItem], nll_P: list[float], hit_P: list[bool], scores: LayerScores
) -> None:
    """Give each row its own positions."""
    start = 0
    for item in items:
        row = scene.forget_selection.rows[item.index]
        end = start + len(item.example.token_ids) - item.example.num_prompt_tokens
        scores[item.index] = TokenScores(
            row.number, tuple(nll_P[start:end]), tuple(hit_P[start:end]), num_end=item.example.num_end_tokens
        )
        start = end


def _metrics(scene: AttackContext, scores: LayerScores) -> SetMetrics:
    observed = InferenceResult(
        rows=get_row_numbers(scene.forget_selection),
        scores=tuple(scores[i] for i in range(len(scene.forget_selection.rows))),
    )
    return {name: METRICS[name](observed, scene.resampling) for name in LAYER_METRICS}


def _best(values: list[MetricValue], scene: AttackContext) -> MetricValue:
    """Return each row's largest value over the layers."""
    for value in values:
        if value.value is None:
            return value
    return compute_worst_case((value.per_example or () for value in values), scene.resampling)

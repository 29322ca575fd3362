"""Probing: what the layers below the last still say of the answer (logit lens).

Source: nostalgebraist 2020, "interpreting GPT: the logit lens": a layer's hidden states through the model's own final
norm and vocabulary projection; applied to unlearned models by Patil et al. (arXiv:2309.17410).
Differs from a trained probe: nothing is learned, so what is not found here may still be there in another basis.
"""

import time

import torch
from torch.nn.functional import cross_entropy

from soul_core.attacks.context import Attacked, NotPossibleError, Scene, numbers, worst_of
from soul_core.attacks.hidden_states import Watcher, decoder_layers
from soul_core.data.packing import pack
from soul_core.events import stop_if_asked
from soul_core.metrics import METRICS
from soul_core.metrics.observed import Observed, TokenScores
from soul_core.models.forward_calls import at_wanted, forward_calls
from soul_core.models.scoring import score
from soul_core.report import MetricValue, SetMetrics
from soul_core.spec import FORGET
from soul_core.spec.attacks import Probing
from soul_core.training.base_scores import Projection
from soul_core.training.micro_batching import Item, MicroBatcher, Unit

#: What can be said of a layer: likelihoods only, since it writes no answers.
LAYER_METRICS = ("probability", "exact_memorisation", "extraction_strength")
_TOLERANCE = 0.02  # of the largest logit: bfloat16 rounds; another computation is far off

Scores = dict[int, TokenScores]  # place among the forget rows -> what a layer says of its answer


def probing(scene: Scene, spec: Probing) -> Attacked:
    """Score the forget answers at each chosen layer; under the attack each row has the best of them."""
    layers = chosen_layers(spec, len(decoder_layers(scene.loaded.model)))
    by_layer = _read(scene, layers)
    variants = {f"layer {number}": _metrics(scene, of_layer) for number, of_layer in by_layer.items()}
    return Attacked(
        under={FORGET: {name: _best([one[name] for one in variants.values()], scene) for name in LAYER_METRICS}},
        without={FORGET: {name: value for name, value in scene.plain.items() if name in LAYER_METRICS}},
        rows={FORGET: numbers(scene.forget)},
        variants=variants,
        notes=(_note(layers, len(decoder_layers(scene.loaded.model))),),
    )


def _note(layers: list[int], num_layers: int) -> str:
    return (
        f"Layers {', '.join(map(str, layers))} of {num_layers}, counted from 0, through the model's own final norm and "
        "output embedding. A layer that says nothing this way may still hold it in a form that only a trained probe "
        "reads."
    )


def chosen_layers(spec: Probing, num_layers: int) -> list[int]:
    """Return the layers to read, in order: those of the spec, else a quarter, half, three quarters and the last.

    Raises NotPossibleError naming a layer the model has not.
    """
    if beyond := [number for number in spec.layers if number >= num_layers]:
        raise NotPossibleError(f"there is no layer {beyond[0]}: the model has {num_layers}, counted from 0")
    return sorted(set(spec.layers) or {max(1, round(num_layers * part / 4)) - 1 for part in (1, 2, 3, 4)})


@torch.no_grad()
def _read(scene: Scene, layers: list[int]) -> dict[int, Scores]:
    loaded, started = scene.loaded, time.monotonic()
    by_layer: dict[int, Scores] = {number: {} for number in layers}
    projection = Projection.of(loaded)
    last = len(decoder_layers(loaded.model)) - 1
    units: list[Unit] = [(Item("forget", place, example),) for place, example in enumerate(scene.forget.examples)]

    def work(items: list[Item]) -> None:
        stop_if_asked(scene.listener)
        packed = pack([item.example for item in items], loaded.device)
        with Watcher(loaded.model, [*layers, last]) as watcher, loaded.autocast():
            scores = score(loaded.model, packed)
        calls = forward_calls(loaded.model, packed)
        for number in [last, *layers]:
            hidden_PD = at_wanted(calls, watcher.hidden[number])
            with loaded.autocast():
                normed_PD = watcher.norm(hidden_PD[None])[0]
                logits_PV = projection(normed_PD.to(loaded.compute_dtype))
            if number == last:
                _check(logits_PV, scores.logits_PV)
            if number in by_layer:
                nll_P = cross_entropy(logits_PV, packed.labels_P, reduction="none").tolist()
                hit_P = (logits_PV.argmax(-1) == packed.labels_P).tolist()
                _share_out(scene, items, nll_P, hit_P, by_layer[number])
        scene.tick(started, done=items[-1].index + 1, total=len(units))

    MicroBatcher(scene.spec.training.micro_batch_tokens, scene.listener).over(units, work, undo=lambda: None)
    return by_layer


def _check(ours_PV: torch.Tensor, logits_PV: torch.Tensor) -> None:
    tolerance = _TOLERANCE * float(logits_PV.abs().amax().clamp(min=1))
    if not float((ours_PV - logits_PV).abs().amax()) <= tolerance:
        raise NotPossibleError("the model makes its logits in another way than final norm and output embedding")


def _share_out(scene: Scene, items: list[Item], nll_P: list[float], hit_P: list[bool], scores: Scores) -> None:
    """Give each row its own positions."""
    start = 0
    for item in items:
        row = scene.forget.rows[item.index]
        end = start + len(item.example.token_ids) - item.example.num_prompt
        scores[item.index] = TokenScores(
            row.number, tuple(nll_P[start:end]), tuple(hit_P[start:end]), num_end=item.example.num_end
        )
        start = end


def _metrics(scene: Scene, scores: Scores) -> SetMetrics:
    observed = Observed(rows=numbers(scene.forget), scores=tuple(scores[i] for i in range(len(scene.forget.rows))))
    return {name: METRICS[name](observed, scene.resampling) for name in LAYER_METRICS}


def _best(values: list[MetricValue], scene: Scene) -> MetricValue:
    """Return each row's largest value over the layers."""
    for value in values:
        if value.value is None:
            return value
    return worst_of((value.per_example or () for value in values), scene.resampling)

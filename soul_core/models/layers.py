"""Which layer's hidden states the spec's terms read: what its forget term steers."""

import torch
from transformers import PreTrainedModel

from soul_core.errors import BadSpec
from soul_core.models.scoring import get_decoder_layers
from soul_core.spec import JobSpec
from soul_core.spec.terms import Rmu


def find_steered_layer(model: PreTrainedModel, spec: JobSpec) -> torch.nn.Module | None:
    """Return the layer, or None when no term reads hidden states. Raises BadSpec when the model has no such layer."""
    if spec.kind == "finetune" or not isinstance(spec.forget, Rmu):
        return None
    layers, wish = get_decoder_layers(model), spec.forget.layer
    index = max(0, round(len(layers) / 4) - 1) if wish == "auto" else wish  # the paper's 7 of 32
    if index >= len(layers):
        raise BadSpec(f"forget.layer: the model has {len(layers)} layers, 0 to {len(layers) - 1}; there is no {index}")
    return layers[index]

"""The decoder layers of a model, under whatever name the architecture keeps them, and the one that a spec steers."""

import torch
from transformers import PreTrainedModel

from soul_core.errors import BadModel, BadSpec
from soul_core.spec import JobSpec
from soul_core.spec.terms import Rmu


class LayersNotFoundError(BadModel):
    """The model has no list of its decoder layers. An attack that reads layers is not run then."""


def find_decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the decoder layers from first to last, also of a model with adapters.

    Raises:
        LayersNotFoundError: No list of the model is as long as config.json says.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            return module
    raise LayersNotFoundError(
        f"{type(model).__name__} has no list of {num_layers} decoder layers; leave out what reads them: forget.kind "
        "'rmu', the attacks 'probing' and 'poison'"
    )


def find_steered_layer(model: PreTrainedModel, spec: JobSpec) -> torch.nn.Module | None:
    """Return the layer whose hidden states the terms read, or None if no term reads any.

    Raises:
        BadSpec: The model has fewer layers than the spec names.
    """
    if spec.kind == "finetune" or not isinstance(spec.forget, Rmu):
        return None
    layers, choice = find_decoder_layers(model), spec.forget.layer
    index = max(0, round(len(layers) / 4) - 1) if choice == "auto" else choice  # the paper's 7 of 32
    if index >= len(layers):
        raise BadSpec(f"forget.layer: the model has {len(layers)} layers, 0 to {len(layers) - 1}; there is no {index}")
    return layers[index]

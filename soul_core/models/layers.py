"""The decoder layers of a model, under whatever name the architecture keeps them."""

import torch
from transformers import PreTrainedModel

from soul_core.errors import BadModel


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

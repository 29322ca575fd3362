"""Accounts for every tensor of a folder after loading: read, made by the architecture itself, or an error by name.

transformers leaves tensors out silently: names it has a pattern for, and a second name of one weight. What may be left
out is decided by value: a tensor carries nothing where the architecture computes the same numbers itself.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from soul_core.errors import BadModel
from soul_core.models.json_files import read_json_object
from soul_core.models.left_over import make_unread_tensors_error
from soul_core.models.weight_files import read_weight_files, truncate_names

_MOST_NEGATIVE_WEIGHT = -1e3  # below it a number is a mask's minus infinity
_TABLE_TOLERANCE = 5e-3  # a cosine at position 2,048, of frequencies that were rounded another way


def check_loaded_tensors(model: PreTrainedModel, folder: Path, loading_info: dict[str, Any]) -> None:
    """Raise BadModel unless everything the model needs was in the folder, and everything in the folder was needed.

    `told` is transformers' own loading info; it is not believed alone.
    """
    config = read_json_object(folder, "config.json") or {}
    if lost := sorted(loading_info["missing_keys"]) + sorted(str(key) for key in loading_info["mismatched_keys"]):
        raise BadModel(
            "weights are missing, or have another shape than config.json says; give the complete files (an output head "
            "alone is missing where the model shares it with its embedding: set tie_word_embeddings to true then)",
            details=truncate_names(lost),
        )
    file_of = read_weight_files(folder).file_by_tensor
    target_of, weights = dict(_unread(model, file_of)), model.state_dict()
    wrong = [
        name
        for name, tensor in _tensors(folder, {name: file_of[name] for name in target_of})
        if not _is_computed(model, name, tensor)
        and not (
            target_of[name] in weights and _equals(tensor, weights[target_of[name]])
        )  # a second name, same numbers
    ]
    wrong += sorted(loading_info["unexpected_keys"] - set(target_of.values()))
    if wrong:
        raise make_unread_tensors_error(wrong, config)


def untie_output_head(model: PreTrainedModel) -> bool:
    """Make the config say what was loaded: a head of its own is not tied, whatever config.json says.

    transformers ties the head only where the file has no head or an equal one. Returns whether the config was wrong.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is getattr(embedding, "weight", None):
        return False
    configs = [each for each in (model.config, model.config.get_text_config()) if each.tie_word_embeddings]
    for each in configs:
        each.tie_word_embeddings = False
    return bool(configs)


def _unread(model: PreTrainedModel, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the tensors that did not go into the model, with the names they would have there.

    Replays the renaming of transformers. Several tensors may make one weight where a converter joins them; else the
    first is taken and a second one of the same name is left over.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    wanted = model.state_dict()
    taken: set[str] = set()
    for name in names:
        target, joined = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
        if target not in wanted and name in wanted:
            target, joined = rename_source_key(name, [], [], model.base_model_prefix, wanted)
        if target not in wanted or (joined is None and target in taken):
            yield name, target
        taken.add(target)


def _tensors(folder: Path, file_of: dict[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(set(file_of.values())):
        with safe_open(folder / file, framework="pt") as reader:
            for name in sorted(name for name, own in file_of.items() if own == file):
                yield name, reader.get_tensor(name)


def _is_computed(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> bool:
    """Say whether the architecture makes these numbers itself, so that nothing is lost with them."""
    own_name = name.rpartition(".")[2]
    if tensor.numel() == 0:
        return True
    if own_name == "masked_bias":
        return tensor.numel() == 1 and float(tensor) <= _MOST_NEGATIVE_WEIGHT
    if own_name == "position_ids":
        return torch.equal(tensor.flatten(), torch.arange(tensor.numel()))
    if own_name in {"cos_cached", "sin_cached"}:
        return any(_is_table(tensor, own_name, frequencies) for frequencies in _frequencies(model))
    if own_name.endswith("inv_freq"):
        return any(_equals(tensor, frequencies) for frequencies in _frequencies(model))
    return _is_causal_mask(tensor) or any(
        _equals(tensor, buffer) for known, buffer in model.named_buffers() if known.rpartition(".")[2] == own_name
    )


def _is_causal_mask(tensor: torch.Tensor) -> bool:
    """Say whether this is the square of who sees whom: ones (or True) at and below the diagonal, or minus infinity
    above it.
    """
    size = tensor.shape[-1]
    if tensor.ndim < 2 or size < 2 or tensor.shape[-2] != size or tensor.numel() != size * size:
        return False
    square = tensor.reshape(size, size).float()
    allowed = torch.ones(size, size, dtype=torch.bool).tril()
    if bool((square[allowed] == 1).all()):
        return bool((square[~allowed] == 0).all())
    return bool((square[allowed] == 0).all() and (square[~allowed] <= _MOST_NEGATIVE_WEIGHT).all())


def _frequencies(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yield the model's rotary frequencies, and those before any scaling: libraries stored either."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            yield buffer.detach().float().cpu()
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    layered = [value for value in parameters.values() if isinstance(value, dict)]
    thetas = {one["rope_theta"] for one in (layered or [parameters]) if one.get("rope_theta")}
    sizes = {buffer.numel() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    for theta in thetas:
        for size in sizes:
            yield theta ** -(torch.arange(size).float() / size)


def _is_table(tensor: torch.Tensor, name: str, frequencies: torch.Tensor) -> bool:
    table = tensor.squeeze().float()
    if table.ndim != 2 or table.shape[1] != 2 * frequencies.numel():
        return False
    angles = torch.outer(torch.arange(table.shape[0]).float(), frequencies).repeat(1, 2)
    return bool(torch.allclose(table, angles.cos() if name == "cos_cached" else angles.sin(), atol=_TABLE_TOLERANCE))


def _equals(stored: torch.Tensor, computed: torch.Tensor) -> bool:
    """Compare as the file's type rounds."""
    stored, computed = stored.squeeze(), computed.detach().cpu().squeeze()
    if stored.shape != computed.shape:
        return False
    if not stored.is_floating_point():
        return torch.equal(stored.double(), computed.double())
    rounding = 2 * torch.finfo(stored.dtype).eps + 1e-5
    return bool(torch.allclose(stored.float(), computed.to(stored.dtype).float(), rtol=rounding, atol=1e-7))

"""Accounts for every tensor of a folder after loading: it was read, or the architecture computes it, or it is an error.

transformers ignores tensors without an error: names that match its patterns, and a second name of one weight. Values
decide whether that is harmless: it is, if the architecture computes the same numbers itself.
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

_MAX_MASK_VALUE = -1e3  # a number up to it stands for a mask's minus infinity
_TABLE_TOLERANCE = 5e-3  # of a cosine at position 2,048, whose frequency was rounded differently


def check_loaded_tensors(model: PreTrainedModel, folder: Path, loading_info: dict[str, Any]) -> None:
    """Raise BadModel unless the folder held every weight of the model, and nothing else.

    `loading_info` is transformers' own; it does not list every ignored tensor.
    """
    config = read_json_object(folder, "config.json") or {}
    if missing := sorted(loading_info["missing_keys"]) + sorted(str(key) for key in loading_info["mismatched_keys"]):
        raise BadModel(
            "weights are missing, or have another shape than config.json says; give the complete files (if only the "
            "output head is missing because it is the embedding, set tie_word_embeddings to true)",
            details=truncate_names(missing),
        )
    file_by_tensor = read_weight_files(folder).file_by_tensor
    targets, weights = dict(_list_unread(model, file_by_tensor)), model.state_dict()
    wrong = []
    for name, tensor in _read_tensors(folder, {name: file_by_tensor[name] for name in targets}):
        weight = weights.get(targets[name])
        is_second_name = weight is not None and _equals(tensor, weight)
        if not is_second_name and not _is_computed(model, name, tensor):
            wrong.append(name)
    wrong += sorted(loading_info["unexpected_keys"] - set(targets.values()))
    if wrong:
        raise make_unread_tensors_error(wrong, config)


def untie_output_head(model: PreTrainedModel) -> bool:
    """Correct `tie_word_embeddings` of the config if the loaded head is not the embedding; return whether it was wrong.

    transformers ties the head only if the file has no head or an equal one, whatever config.json says.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is getattr(embedding, "weight", None):
        return False
    configs = [config for config in (model.config, model.config.get_text_config()) if config.tie_word_embeddings]
    for config in configs:
        config.tie_word_embeddings = False
    return bool(configs)


def _list_unread(model: PreTrainedModel, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the tensors that transformers did not load, and their names in the model.

    Repeats the renaming of transformers. Several tensors of one name are one weight if a converter joins them;
    otherwise the first is loaded and the others are not.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    weights = model.state_dict()
    loaded: set[str] = set()
    for name in names:
        target, joined = rename_source_key(name, renamings, converters, model.base_model_prefix, weights)
        if target not in weights and name in weights:
            target, joined = rename_source_key(name, [], [], model.base_model_prefix, weights)
        if target not in weights or (joined is None and target in loaded):
            yield name, target
        loaded.add(target)


def _read_tensors(folder: Path, file_by_tensor: dict[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(set(file_by_tensor.values())):
        with safe_open(folder / file, framework="pt") as reader:
            for name in sorted(name for name, own_file in file_by_tensor.items() if own_file == file):
                yield name, reader.get_tensor(name)


def _is_computed(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> bool:
    """Return whether the architecture computes these numbers itself."""
    own_name = name.rpartition(".")[2]
    if tensor.numel() == 0:
        return True
    if own_name == "masked_bias":
        return tensor.numel() == 1 and float(tensor) <= _MAX_MASK_VALUE
    if own_name == "position_ids":
        return torch.equal(tensor.flatten(), torch.arange(tensor.numel()))
    if own_name in {"cos_cached", "sin_cached"}:
        return any(_is_table(tensor, own_name, frequencies) for frequencies in _list_frequencies(model))
    if own_name.endswith("inv_freq"):
        return any(_equals(tensor, frequencies) for frequencies in _list_frequencies(model))
    return _is_causal_mask(tensor) or any(
        _equals(tensor, buffer) for known, buffer in model.named_buffers() if known.rpartition(".")[2] == own_name
    )


def _is_causal_mask(tensor: torch.Tensor) -> bool:
    """Return whether this is a square causal mask: ones and zeros above the diagonal, or zeros and minus infinity."""
    size = tensor.shape[-1]
    if tensor.ndim < 2 or size < 2 or tensor.shape[-2] != size or tensor.numel() != size * size:
        return False
    square = tensor.reshape(size, size).float()
    allowed = torch.ones(size, size, dtype=torch.bool).tril()
    if bool((square[allowed] == 1).all()):
        return bool((square[~allowed] == 0).all())
    return bool((square[allowed] == 0).all() and (square[~allowed] <= _MAX_MASK_VALUE).all())


def _list_frequencies(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yield the model's rotary frequencies, and those before any scaling: libraries store either."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            yield buffer.detach().float().cpu()
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    thetas = {rope["rope_theta"] for rope in (per_layer_type or [parameters]) if rope.get("rope_theta")}
    sizes = {buffer.numel() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    for theta in thetas:
        for size in sizes:
            yield theta ** -(torch.arange(size).float() / size)


def _is_table(tensor: torch.Tensor, name: str, frequencies: torch.Tensor) -> bool:
    """Return whether this is the table of cosines or sines of rotary frequencies at each position."""
    table = tensor.squeeze().float()
    if table.ndim != 2 or table.shape[1] != 2 * frequencies.numel():
        return False
    angles = torch.outer(torch.arange(table.shape[0]).float(), frequencies).repeat(1, 2)
    return bool(torch.allclose(table, angles.cos() if name == "cos_cached" else angles.sin(), atol=_TABLE_TOLERANCE))


def _equals(stored: torch.Tensor, computed: torch.Tensor) -> bool:
    """Return whether the tensors are equal up to the rounding of the stored type."""
    stored, computed = stored.squeeze(), computed.detach().cpu().squeeze()
    if stored.shape != computed.shape:
        return False
    if not stored.is_floating_point():
        return torch.equal(stored.double(), computed.double())
    rounding = 2 * torch.finfo(stored.dtype).eps + 1e-5
    return bool(torch.allclose(stored.float(), computed.to(stored.dtype).float(), rtol=rounding, atol=1e-7))

"""Which dtype each tensor is exported in, and the rounding to it: weights are rounded before they are measured.

Parameters stay float32 in memory; after rounding they hold values that the export dtype represents exactly, so the
file's weights are the measured ones.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from soul_core.errors import BadSpec
from soul_core.models.loading import LoadedModel
from soul_core.models.stored_dtypes import list_weight_files, read_gguf_dtype, read_stored_dtypes
from soul_core.spec.export import get_export_dtype

#: Architectures whose activations overflow in float16 (vLLM refuses it for them): a quantized GGUF of one becomes
#: bfloat16 instead.
_OVERFLOW_IN_FLOAT16 = ("gemma", "glm4", "plamo2")
_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: When a tensor's dtype in the base's files is not known, the widest of them loses nothing.
_WIDEST_FIRST = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ExportDtypes:
    """The dtype of each exported tensor: one for all, or another for some by their names."""

    default: str
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what a report calls it: a dtype, or `mixed`."""
        return "mixed" if self.overrides else self.default

    @property
    def needs_rounding(self) -> bool:
        """Say whether any weight loses bits."""
        return {self.default, *self.overrides.values()} != {"float32"}

    def get(self, name: str) -> torch.dtype:
        """Return the dtype of the tensor `name`."""
        return _TORCH[self.overrides.get(name, self.default)]

    def count_bytes(self, model: PreTrainedModel) -> int:
        """Return the size of the exported weights."""
        return sum(tensor.numel() * self.get(name).itemsize for name, tensor in iter_floating_tensors(model))


#: Nothing is rounded.
FLOAT32 = ExportDtypes("float32")


@dataclass(frozen=True)
class Rounding:
    """What the rounding did to a training's changes.

    Attributes:
        changed_share_kept: Of the weights that training changed, the share whose exported value differs from the
            base's. None where nothing was trained or the base's files could not be compared.
        relative_error: Norm of the rounding error over the norm of the change.
    """

    changed_share_kept: float | None
    relative_error: float | None


def find_base_folder(model: PreTrainedModel) -> Path | None:
    """Return the folder the model was loaded from, where it has a config.json: that of a GGUF file is its cache."""
    folder = Path(model.name_or_path) if model.name_or_path else None
    return folder if folder and (folder / "config.json").is_file() else None


def choose_export_dtypes(loaded: LoadedModel, wanted: str) -> ExportDtypes:
    """Return the dtype of every tensor for `export.dtype`. Raises BadSpec for float16 where the base overflows it."""
    dtypes = ExportDtypes(wanted) if wanted != "base" else _as_in_the_base(loaded)
    if "float16" in {dtypes.default, *dtypes.overrides.values()}:
        _require_range(loaded.model, dtypes, "the base model's")
    return dtypes


def _as_in_the_base(loaded: LoadedModel) -> ExportDtypes:
    source, folder = Path(loaded.facts.source), find_base_folder(loaded.model)
    if source.is_file():
        dtype = get_export_dtype("base", read_gguf_dtype(source))
        overflows = str(loaded.model.config.model_type).startswith(_OVERFLOW_IN_FLOAT16)
        return ExportDtypes("bfloat16" if dtype == "float16" and overflows else dtype)
    stored = (
        {name: get_export_dtype("base", dtype) for name, dtype in read_stored_dtypes(folder).items()} if folder else {}
    )
    found = set(stored.values()) or {"float32"}
    if len(found) == 1:
        return ExportDtypes(found.pop())
    widest = next(dtype for dtype in _WIDEST_FIRST if dtype in found)
    sizes: Counter[str] = Counter()
    names = {}
    for name, tensor in iter_floating_tensors(loaded.model):
        key = _name_in_files(name, stored, loaded.model)
        names[name] = stored[key] if key else widest
        sizes[names[name]] += tensor.numel()
    common = sizes.most_common(1)[0][0]
    return ExportDtypes(common, {name: dtype for name, dtype in names.items() if dtype != common})


def iter_floating_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor of all that is exported and can be rounded, tied ones once, in the model's order."""
    seen = set()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtypes: ExportDtypes) -> None:
    """Round every weight to its export dtype, to the nearest, ties to even; what float16 cannot hold becomes infinite.

    The tensors stay float32.
    """
    if dtypes.needs_rounding:
        for name, tensor in iter_floating_tensors(model):
            tensor.copy_(tensor.to(dtypes.get(name)))


@torch.no_grad()
def round_for_export(model: PreTrainedModel, dtypes: ExportDtypes) -> Rounding:
    """Round a trained model's weights and compare with the base's files.

    Raises BadSpec, and changes nothing, when a weight is too large for float16.
    """
    if not dtypes.needs_rounding:
        return Rounding(changed_share_kept=1.0, relative_error=0.0)
    _require_range(model, dtypes, "the trained model's")
    base = _BaseTensors(model)
    num_changed, num_kept, error, change = 0, 0, 0.0, 0.0
    for name, tensor in iter_floating_tensors(model):
        dtype = dtypes.get(name)
        rounded = tensor.to(dtype).to(tensor.dtype)
        before = base.get(name, tensor)
        if before is not None:
            changed = tensor != before
            num_changed += int(changed.sum())
            num_kept += int((changed & (rounded != before.to(dtype).to(tensor.dtype))).sum())
            # of changed weights alone: the others are rounded in the base, too
            error += float(((rounded - tensor)[changed].double() ** 2).sum())
            change += float(((tensor - before)[changed].double() ** 2).sum())
        tensor.copy_(rounded)
    if num_changed == 0:
        return Rounding(changed_share_kept=None, relative_error=None)
    return Rounding(changed_share_kept=num_kept / num_changed, relative_error=(error / change) ** 0.5)


def make_export_state_dict(model: PreTrainedModel, dtypes: ExportDtypes) -> dict[str, torch.Tensor]:
    """Return what is written: name -> tensor in its export dtype. Tied tensors stay one tensor."""
    done: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            done.setdefault(tensor.data_ptr(), tensor.detach().to(dtypes.get(name)))
            state[name] = done[tensor.data_ptr()]
        else:
            state[name] = tensor.detach()
    return state


def _require_range(model: PreTrainedModel, dtypes: ExportDtypes, whose: str) -> None:
    largest = torch.finfo(torch.float16).max
    wrong = [
        name
        for name, tensor in iter_floating_tensors(model)
        if dtypes.get(name) == torch.float16 and bool(tensor.to(torch.float16).isinf().any())
    ]
    if wrong:
        raise BadSpec(
            f"export.dtype: {whose} weights exceed what float16 can hold ({largest:g}); "
            "set export.dtype to 'bfloat16' or 'float32'",
            details=tuple(wrong[:20]),
        )


class _BaseTensors:
    """The base's weights, read from its files one at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        folder = find_base_folder(model)
        self._files: dict[str, Path] = {}
        for path in list_weight_files(folder) if folder else ():
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def get(self, name: str, like: torch.Tensor) -> torch.Tensor | None:
        """Return the tensor as float32 beside `like`; None where the files have it under no name of their own."""
        key = _name_in_files(name, self._files, self._model)
        if key is None:
            return None
        with safe_open(self._files[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        return tensor.to(like.device, like.dtype) if tensor.shape == like.shape else None


def _name_in_files(name: str, files: Mapping[str, object], model: PreTrainedModel) -> str | None:
    """Return what the files call a tensor: some were saved without the head, and so without the model's prefix."""
    prefix = f"{model.base_model_prefix}."
    names = (name, name.removeprefix(prefix), prefix + name)
    return next((candidate for candidate in names if candidate in files), None)

"""The type in which each tensor is exported, and the rounding to it. Weights are rounded before they are measured.

Parameters stay float32 in memory. After rounding their values are exact in the export type, so that the weights in the
file are the measured ones.
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

#: Architectures whose activations overflow in float16 (vLLM refuses float16 for them): their quantized GGUF files are
#: exported in bfloat16 instead.
_OVERFLOW_IN_FLOAT16 = ("gemma", "glm4", "plamo2")
_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: A tensor whose type in the base's files is unknown gets the widest type of these files, which loses nothing.
_WIDEST_FIRST = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ExportDtypes:
    """The type of each exported tensor: a default, and overrides by name."""

    default: str
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in a report: a type, or `mixed`."""
        return "mixed" if self.overrides else self.default

    @property
    def needs_rounding(self) -> bool:
        """Whether any weight loses bits."""
        return {self.default, *self.overrides.values()} != {"float32"}

    def get(self, name: str) -> torch.dtype:
        """Return the type of a tensor."""
        return _TORCH[self.overrides.get(name, self.default)]

    def count_bytes(self, model: PreTrainedModel) -> int:
        """Return the size of the exported weights."""
        return sum(tensor.numel() * self.get(name).itemsize for name, tensor in iter_floating_tensors(model))


#: No rounding.
FLOAT32 = ExportDtypes("float32")


@dataclass(frozen=True)
class Rounding:
    """What rounding did to the changes of a training.

    Attributes:
        changed_share_kept: Of the weights that training changed, the fraction whose exported value differs from the
            base model's. None if no weight changed, or the base model's files could not be compared.
        relative_error: Norm of the rounding error over the norm of the change.
    """

    changed_share_kept: float | None
    relative_error: float | None


def find_base_folder(model: PreTrainedModel) -> Path | None:
    """Return the folder with the model's config.json, if there is one: of a GGUF file the folder in the cache."""
    folder = Path(model.name_or_path) if model.name_or_path else None
    return folder if folder and (folder / "config.json").is_file() else None


def choose_export_dtypes(loaded: LoadedModel, wanted: str) -> ExportDtypes:
    """Return the type of every tensor for `export.dtype`. Raises BadSpec if the base model overflows float16."""
    dtypes = ExportDtypes(wanted) if wanted != "base" else _choose_base_dtypes(loaded)
    if "float16" in {dtypes.default, *dtypes.overrides.values()}:
        _require_range(loaded.model, dtypes, "the base model's")
    return dtypes


def _choose_base_dtypes(loaded: LoadedModel) -> ExportDtypes:
    source, folder = Path(loaded.facts.source), find_base_folder(loaded.model)
    if source.is_file():
        dtype = get_export_dtype("base", read_gguf_dtype(source))
        overflows = str(loaded.model.config.model_type).startswith(_OVERFLOW_IN_FLOAT16)
        return ExportDtypes("bfloat16" if dtype == "float16" and overflows else dtype)
    stored = (
        {name: get_export_dtype("base", dtype) for name, dtype in read_stored_dtypes(folder).items()} if folder else {}
    )
    dtypes = set(stored.values()) or {"float32"}
    if len(dtypes) == 1:
        return ExportDtypes(dtypes.pop())
    widest = next(dtype for dtype in _WIDEST_FIRST if dtype in dtypes)
    sizes: Counter[str] = Counter()
    by_name = {}
    for name, tensor in iter_floating_tensors(loaded.model):
        key = _find_name_in_files(name, stored, loaded.model)
        by_name[name] = stored[key] if key else widest
        sizes[by_name[name]] += tensor.numel()
    main_dtype = sizes.most_common(1)[0][0]
    return ExportDtypes(main_dtype, {name: dtype for name, dtype in by_name.items() if dtype != main_dtype})


def iter_floating_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor of all floating-point weights, tied ones once, in the model's order."""
    seen = set()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtypes: ExportDtypes) -> None:
    """Round every weight to its export type, to nearest, ties to even. Values too large for float16 become infinite.

    The tensors stay float32.
    """
    if dtypes.needs_rounding:
        for name, tensor in iter_floating_tensors(model):
            tensor.copy_(tensor.to(dtypes.get(name)))


@torch.no_grad()
def round_for_export(model: PreTrainedModel, dtypes: ExportDtypes) -> Rounding:
    """Round a trained model's weights and compare them with the base model's files.

    Raises BadSpec, without a change, if a weight is too large for float16.
    """
    if not dtypes.needs_rounding:
        return Rounding(changed_share_kept=1.0, relative_error=0.0)
    _require_range(model, dtypes, "the trained model's")
    base = _BaseTensors(model)
    num_changed, num_different, squared_error, squared_change = 0, 0, 0.0, 0.0
    for name, tensor in iter_floating_tensors(model):
        dtype = dtypes.get(name)
        rounded = tensor.to(dtype).to(tensor.dtype)
        before = base.get(name, tensor)
        if before is not None:
            changed = tensor != before
            num_changed += int(changed.sum())
            num_different += int((changed & (rounded != before.to(dtype).to(tensor.dtype))).sum())
            # changed weights only: the others are rounded in the base model as well
            squared_error += float(((rounded - tensor)[changed].double() ** 2).sum())
            squared_change += float(((tensor - before)[changed].double() ** 2).sum())
        tensor.copy_(rounded)
    if num_changed == 0:
        return Rounding(changed_share_kept=None, relative_error=None)
    return Rounding(
        changed_share_kept=num_different / num_changed, relative_error=(squared_error / squared_change) ** 0.5
    )


def make_export_state_dict(model: PreTrainedModel, dtypes: ExportDtypes) -> dict[str, torch.Tensor]:
    """Return the state dict to write: each tensor in its export type. Tied tensors stay one tensor."""
    converted: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            converted.setdefault(tensor.data_ptr(), tensor.detach().to(dtypes.get(name)))
            state[name] = converted[tensor.data_ptr()]
        else:
            state[name] = tensor.detach()
    return state


def _require_range(model: PreTrainedModel, dtypes: ExportDtypes, whose: str) -> None:
    largest = torch.finfo(torch.float16).max
    too_large = [
        name
        for name, tensor in iter_floating_tensors(model)
        if dtypes.get(name) == torch.float16 and bool(tensor.to(torch.float16).isinf().any())
    ]
    if too_large:
        raise BadSpec(
            f"export.dtype: {whose} weights exceed the range of float16 ({largest:g}); "
            "set export.dtype to 'bfloat16' or 'float32'",
            details=tuple(too_large[:20]),
        )


class _BaseTensors:
    """The base model's weights, read from its files one at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        folder = find_base_folder(model)
        self._files: dict[str, Path] = {}
        for path in list_weight_files(folder) if folder else ():
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def get(self, name: str, like: torch.Tensor) -> torch.Tensor | None:
        """Return a tensor with type and device of `like`; None if the files have no tensor of this name."""
        key = _find_name_in_files(name, self._files, self._model)
        if key is None:
            return None
        with safe_open(self._files[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        return tensor.to(like.device, like.dtype) if tensor.shape == like.shape else None


def _find_name_in_files(name: str, files: Mapping[str, object], model: PreTrainedModel) -> str | None:
    """Return a tensor's name in the files: models saved without their head have no prefix in their names."""
    prefix = f"{model.base_model_prefix}."
    names = (name, name.removeprefix(prefix), prefix + name)
    return next((candidate for candidate in names if candidate in files), None)

"""A model's files, judged without loading them: safe, whole, and what they say of themselves. Torch-free.

The API asks at registration, the engine again before loading: nothing that can run code is ever opened.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soul_core.errors import BadModel
from soul_core.models.gguf_header import MAGIC, read_header
from soul_core.models.stored_dtypes import parameters_by_dtype

#: Formats that run code when loaded, and code itself.
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
CODE = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})
#: What loading reads: these are hashed into the digest, and nothing else is fetched from a hub.
READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32}
_BITS |= {"U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}
_MAX_HEADER_BYTES = 100 << 20
_MAX_JSON_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file that loading reads."""

    path: str  # relative to the model
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelInspection:
    """What is known of a model before it is loaded."""

    kind: Literal["folder", "gguf"]
    architecture: str
    num_parameters: int  # as stored; a tied matrix stored twice counts twice
    context_tokens: int
    chat_template: bool
    digest: str  # sha256 over sorted (path, size, sha256) of the files
    size_bytes: int
    files: tuple[ModelFile, ...]
    parameters_by_dtype: dict[str, int] = field(default_factory=dict)  # float32, bfloat16, ..., q4_1


def inspect_model(path: Path | str, *, hashed: bool = True) -> ModelInspection:
    """Check a folder or a GGUF file and return its facts. Raises BadModel saying what to do about it.

    Without `hashed` the contents are not read, and digest and sha256 are empty.
    """
    path = Path(path)
    if path.is_dir():
        return _inspect_folder(path, hashed=hashed)
    if path.is_file():
        return _inspect_gguf(path, hashed=hashed)
    raise BadModel(f"there is no model at {path}")


def is_gguf(path: Path) -> bool:
    """Say whether a file begins as a GGUF does; its name may be anything."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def sha256_of(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: tuple[ModelFile, ...]) -> str:
    """Return one sha256 for a set of files: names, sizes and contents, in the order of the names."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.path):
        whole.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return whole.hexdigest()


def _inspect_gguf(path: Path, *, hashed: bool) -> ModelInspection:
    if not is_gguf(path):
        raise BadModel(
            f"{path.name} is not a GGUF file; give a GGUF file, or a folder with config.json and safetensors"
        )
    header = read_header(path)
    # The content alone: a GGUF is one file, and its name is the user's.
    files = (ModelFile("model.gguf", path.stat().st_size, sha256_of(path) if hashed else ""),)
    return ModelInspection(
        kind="gguf",
        architecture=header.architecture,
        num_parameters=header.num_parameters,
        context_tokens=int(header.number("context_length")),
        chat_template="tokenizer.chat_template" in header.metadata,
        digest=digest_of(files) if hashed else "",
        size_bytes=files[0].size_bytes,
        files=files,
        parameters_by_dtype=parameters_by_dtype(path),
    )


def _inspect_folder(folder: Path, *, hashed: bool) -> ModelInspection:
    _refuse_code(folder)
    config = _json_object(folder, "config.json")
    if config is None:
        raise BadModel(_no_config(folder))
    for file in folder.glob("*config*.json"):
        if _mentions_auto_map(_json_object(folder, file.name)):
            raise BadModel(f"{file.name} has an auto_map: this model needs its own code, which is never run here")
    if "quantization_config" in config:
        raise BadModel("the checkpoint is quantised and cannot be trained; give the unquantised weights")
    shards = _shards(folder)
    num_parameters = sum(_check_safetensors(folder / shard, wanted) for shard, wanted in shards.items())
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise BadModel("the folder has no tokenizer (tokenizer.json); save the tokenizer beside the model")
    paths = sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()})
    files = tuple(ModelFile(path.name, path.stat().st_size, sha256_of(path) if hashed else "") for path in paths)
    return ModelInspection(
        kind="folder",
        architecture=_architecture(config),
        num_parameters=num_parameters,
        context_tokens=_context_tokens(config),
        chat_template=(folder / "chat_template.jinja").is_file()
        or bool((_json_object(folder, "tokenizer_config.json") or {}).get("chat_template")),
        digest=digest_of(files) if hashed else "",
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
        parameters_by_dtype=parameters_by_dtype(folder),
    )


def _refuse_code(folder: Path) -> None:
    found = sorted(
        path.relative_to(folder).as_posix() for path in _walk(folder) if path.suffix.lower() in PICKLES | CODE
    )
    if found:
        raise BadModel(
            "the folder holds files that can run code when loaded; save the model as safetensors and remove them",
            details=tuple(found),
        )


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _no_config(folder: Path) -> str:
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"the folder has no config.json but {ggufs[0].name}: give the path of that file"
    if (folder / "adapter_config.json").is_file():
        return "the folder holds an adapter only; merge it into its base model first"
    return "the folder has no config.json, so it is no transformers model"


def _json_object(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the file's object, None when there is no such file."""
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise BadModel(f"{name} is too large to be what its name says")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{name} is not JSON; is it whole?") from error
    if not isinstance(value, dict):
        raise BadModel(f"{name} is not a JSON object")
    return value


def _mentions_auto_map(value: Any) -> bool:
    if isinstance(value, dict):
        return "auto_map" in value or any(map(_mentions_auto_map, value.values()))
    return isinstance(value, list) and any(map(_mentions_auto_map, value))


def _architecture(config: dict[str, Any]) -> str:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise BadModel("config.json names no architecture (architectures)")
    if not re.search(r"(ForCausalLM|LMHeadModel)$", name):
        raise BadModel(f"{name} is no causal language model")
    return name


def _context_tokens(config: dict[str, Any]) -> int:
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, dict) else {}):
        for key in _CONTEXT_KEYS:
            if isinstance(source.get(key), int):
                return int(source[key])
    raise BadModel("config.json does not say the context length (max_position_embeddings)")


def _shards(folder: Path) -> dict[str, frozenset[str]]:
    """Return the weight files and the tensors each must hold (nothing known: empty)."""
    index = _json_object(folder, "model.safetensors.index.json")
    if index is None:
        if not (folder / "model.safetensors").is_file():
            raise BadModel("the folder has no model.safetensors; save the model as safetensors")
        return {"model.safetensors": frozenset()}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadModel("model.safetensors.index.json has no weight_map")
    names = {str(shard) for shard in weight_map.values()}
    if strange := sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors")):
        raise BadModel("model.safetensors.index.json points outside the folder", details=tuple(strange))
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise BadModel("weight files are missing", details=tuple(missing))
    return {name: frozenset(key for key, shard in weight_map.items() if shard == name) for name in sorted(names)}


def _check_safetensors(path: Path, wanted: frozenset[str]) -> int:
    """Check a file's header against its size and return the number of parameters. Raises BadModel."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise BadModel(f"{path.name} is cut off or no safetensors file: its header does not fit in {size:,} bytes")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            spans = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
            counts = {name: math.prod(entry["shape"]) for name, entry in tensors.items()}
            bits = {name: _BITS[entry["dtype"]] for name, entry in tensors.items()}
            sizes = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in tensors.items()}
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise BadModel(f"{path.name} has a header that is no safetensors header") from error
    promised = 8 + length + (spans[-1][1] if spans else 0)
    if promised != size:
        what = "is cut off" if promised > size else "is longer than its header says"
        raise BadModel(f"{path.name} {what}: {size:,} bytes, its header promises {promised:,}")
    adjacent = all(left[1] == right[0] for left, right in zip([(0, 0), *spans], spans, strict=False))
    if not adjacent or any(counts[name] * bits[name] != 8 * sizes[name] for name in tensors):
        raise BadModel(f"{path.name} has a header that contradicts itself")
    if lost := sorted(wanted - tensors.keys()):
        raise BadModel(f"{path.name} lacks tensors its index promises", details=tuple(lost[:20]))
    return sum(counts.values())

"""Inspection of a model's files without loading them: safe, complete, and the facts that they state. Torch-free.

The API inspects at registration, the engine again before loading. Nothing that can run code is ever opened.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadModel
from soul_core.models.architectures import check_architecture, read_context_tokens
from soul_core.models.gguf_architectures import require_readable
from soul_core.models.gguf_header import MAGIC, read_gguf_header
from soul_core.models.json_files import read_json_object
from soul_core.models.left_over import check_tensor_names
from soul_core.models.stored_dtypes import count_parameters_by_dtype
from soul_core.models.weight_files import read_weight_files

#: Formats that can run code when loaded, and code itself.
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
CODE_SUFFIXES = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})
#: The files that loading reads: only these are hashed into the digest and downloaded from a hub.
MODEL_FILE_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file that loading reads."""

    path: str  # relative to the model
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelInspection:
    """The facts about a model that its files state."""

    kind: Literal["folder", "gguf"]
    architecture: str
    num_parameters: int  # as stored; a tied matrix stored twice counts twice
    context_tokens: int
    chat_template: bool
    digest: str  # sha256 over sorted (path, size, sha256) of the files
    size_bytes: int
    files: tuple[ModelFile, ...]
    parameters_by_dtype: dict[str, int] = field(default_factory=dict)  # float32, bfloat16, ..., q4_1


def inspect_model(path: Path | str, *, hash_files: bool = True) -> ModelInspection:
    """Check a folder or a GGUF file and return its facts. Raises BadModel.

    Without `hash_files` the contents are not read, and digest and sha256 are empty.
    """
    path = Path(path)
    if path.is_dir():
        return _inspect_folder(path, hash_files=hash_files)
    if path.is_file():
        return _inspect_gguf(path, hash_files=hash_files)
    raise BadModel(f"there is no model at {path}; give a folder with safetensors or a GGUF file")


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as a GGUF does, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def compute_digest(files: tuple[ModelFile, ...]) -> str:
    """Return one sha256 for a set of files: names, sizes and contents, in the order of the names."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _inspect_gguf(path: Path, *, hash_files: bool) -> ModelInspection:
    if not is_gguf(path):
        raise BadModel(
            f"{path.name} is not a GGUF file; give a GGUF file, or a folder with config.json and safetensors"
        )
    header = read_gguf_header(path)
    require_readable(header)
    # A fixed name, because the user may rename the file.
    files = (ModelFile("model.gguf", path.stat().st_size, compute_sha256(path) if hash_files else ""),)
    return ModelInspection(
        kind="gguf",
        architecture=header.architecture,
        num_parameters=header.num_parameters,
        context_tokens=int(header.get_number("context_length")),
        chat_template="tokenizer.chat_template" in header.metadata,
        digest=compute_digest(files) if hash_files else "",
        size_bytes=files[0].size_bytes,
        files=files,
        parameters_by_dtype=count_parameters_by_dtype(path),
    )


def _inspect_folder(folder: Path, *, hash_files: bool) -> ModelInspection:
    _refuse_code(folder)
    config = read_json_object(folder, "config.json")
    if config is None:
        raise BadModel(_explain_missing_config(folder))
    for file in folder.glob("*config*.json"):
        if _mentions_auto_map(read_json_object(folder, file.name)):
            raise BadModel(
                f"{file.name} has an auto_map: the model needs its own code, which is never run; give a model that "
                "transformers supports"
            )
    if (folder / "adapter_config.json").is_file():
        raise BadModel(
            "the folder holds an adapter (adapter_config.json) and a model: merge it (peft: merge_and_unload), or "
            "remove the adapter's files to use the model without it"
        )
    if "quantization_config" in config:
        raise BadModel("the checkpoint is quantized and cannot be trained; give the unquantized weights")
    architecture = check_architecture(config)
    if "transformers_weights" in config:
        raise BadModel("config.json names its weight file (transformers_weights); call it model.safetensors instead")
    weights = read_weight_files(folder)
    check_tensor_names(config, weights.shapes.keys())
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise BadModel("the folder has no tokenizer (tokenizer.json); save the tokenizer in the model's folder")
    paths = sorted({path for pattern in MODEL_FILE_PATTERNS for path in folder.glob(pattern) if path.is_file()})
    files = tuple(
        ModelFile(path.name, path.stat().st_size, compute_sha256(path) if hash_files else "") for path in paths
    )
    tokenizer_config = read_json_object(folder, "tokenizer_config.json") or {}
    return ModelInspection(
        kind="folder",
        architecture=architecture,
        num_parameters=weights.num_parameters,
        context_tokens=read_context_tokens(config, tokenizer_config),
        chat_template=(folder / "chat_template.jinja").is_file() or bool(tokenizer_config.get("chat_template")),
        digest=compute_digest(files) if hash_files else "",
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
        parameters_by_dtype=count_parameters_by_dtype(folder),
    )


def _refuse_code(folder: Path) -> None:
    refused = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICKLE_SUFFIXES | CODE_SUFFIXES and path.is_file()
    )
    if refused:
        raise BadModel(
            "the folder holds files that can run code when loaded; save the model as safetensors and remove them",
            details=tuple(refused),
        )


def _explain_missing_config(folder: Path) -> str:
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"the folder has no config.json but holds {ggufs[0].name}; give the path of that file"
    if (folder / "adapter_config.json").is_file():
        return "the folder holds an adapter only; merge it into its base model first"
    return "the folder has no config.json; give a folder that transformers' save_pretrained wrote"


def _mentions_auto_map(value: Any) -> bool:
    if isinstance(value, dict):
        return "auto_map" in value or any(map(_mentions_auto_map, value.values()))
    return isinstance(value, list) and any(map(_mentions_auto_map, value))

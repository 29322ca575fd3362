"""Loads the base model and its tokenizer: a folder, a GGUF file, or a hub id pinned to a commit. Safetensors only.

Parameters are always float32: they are the master weights, and a step of 2e-5 changes few weights of a bfloat16 copy.
Trainer and evaluation compute in bfloat16 by `LoadedModel.autocast()` around their forward passes.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch
from httpx import HTTPError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from soul_core.data.encoding import ChatSettings, RowEncoder
from soul_core.errors import BadModel, BadSpec
from soul_core.models.capabilities import (
    BatchLayout,
    Capabilities,
    get_capabilities,
    get_max_short_rope_tokens,
    set_capabilities,
)
from soul_core.models.digests import (
    copy_parameters_to_memory,
    read_file_stamps,
    require_digest,
    require_intact_snapshot,
    require_unchanged,
)
from soul_core.models.files import MODEL_FILE_PATTERNS, inspect_model
from soul_core.models.gguf import convert_to_folder
from soul_core.models.packed_attention import PACKED_ATTENTION, check_isolation
from soul_core.models.probes import can_decode_cached, require_causal, require_padding
from soul_core.models.weight_accounts import check_loaded_tensors, untie_output_head
from soul_core.report import ModelFacts

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model for training or evaluation, in eval mode, and its tokenizer, which pads on the left."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: ModelFacts
    device: torch.device
    compute_dtype: torch.dtype
    chat: ChatSettings = field(default_factory=ChatSettings)

    @property
    def encoder(self) -> RowEncoder:
        """The encoder of rows as this model's tokens."""
        return RowEncoder(self.tokenizer, self.chat)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of forward passes: with bfloat16 compute, bfloat16 matrix products of float32 weights."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16, cache_enabled=False
        )


def get_default_cache_dir() -> Path:
    """Return the folder of downloads, converted models and this user's key of row digests."""
    return Path.home() / ".cache" / "soul"


def choose_device(requested: str | torch.device = "auto") -> torch.device:
    """Return the device; "auto" is the GPU if there is one. Raises BadSpec if a requested GPU does not exist."""
    if str(requested) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(requested)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadSpec("device: this machine has no usable GPU for 'cuda'; use 'auto' or 'cpu'")
    return device


def choose_dtype(requested: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the compute type; "auto" is bfloat16 on a GPU, float32 on a CPU (ten times slower in bfloat16)."""
    if isinstance(requested, torch.dtype):
        return requested
    if requested == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[requested]


def load_model(
    source: Path | str,
    *,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] | torch.dtype = "auto",
    cache_dir: Path | str | None = None,
    digest: str | None = None,
    display_name: str | None = None,
    chat: ChatSettings | None = None,
    chat_template: str | None = None,
) -> LoadedModel:
    """Load a model with float32 parameters.

    Args:
        source: A folder with safetensors, a GGUF file, or a hub id.
        revision: Commit, branch or tag of a hub id.
        dtype: The compute type.
        cache_dir: A GGUF file is converted into it once, a hub id downloaded. Default: ~/.cache/soul.
        digest: The digest that the model was registered with.
        display_name: The model's name in errors.
        chat_template: Replaces the model's own.

    Raises:
        BadModel: The model cannot be used, or is not the registered one.
    """
    device = choose_device(device)
    cache_dir = Path(cache_dir) if cache_dir else get_default_cache_dir()
    folder, own_digest = _find_local_folder(source, revision, cache_dir)
    stamps = read_file_stamps(folder)
    inspection = inspect_model(folder, hash_files=own_digest is None)
    require_digest(display_name or str(source), own_digest or inspection.digest, digest)
    tokenizer = _load_tokenizer(folder)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    model = _load_and_probe(folder, device)
    copy_parameters_to_memory(model)
    require_unchanged(display_name or str(source), folder, stamps)
    _check_vocabulary(model, tokenizer)
    facts = ModelFacts(
        source=str(source),
        digest=own_digest or inspection.digest,
        architecture=inspection.architecture,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        context_tokens=inspection.context_tokens,
        chat_template=bool(tokenizer.chat_template),
        batches=get_capabilities(model).batch_layout,
    )
    return LoadedModel(model, tokenizer, facts, device, choose_dtype(dtype, device), chat or ChatSettings())


def _require_finite(model: PreTrainedModel) -> None:
    wrong = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if wrong:
        raise BadModel(
            "weights hold NaN or infinity, because the file is damaged or its training diverged; give another model",
            details=tuple(wrong[:20]),
        )


def _find_local_folder(source: Path | str, revision: str | None, cache_dir: Path) -> tuple[Path, str | None]:
    """Return a folder of safetensors for any source, and the source's digest if it is not that of the folder."""
    path = Path(source)
    if path.is_file():
        digest = inspect_model(path).digest
        return convert_to_folder(path, digest=digest, cache_dir=cache_dir), digest
    if path.is_dir():
        return path, None
    if not _HUB_ID.fullmatch(str(source)):
        raise BadModel(f"there is no model at {source}; give a folder with safetensors, a GGUF file or a hub id")
    return _download(str(source), revision, cache_dir)


def _download(repository: str, revision: str | None, cache_dir: Path) -> tuple[Path, str]:
    """Download the files that loading reads at a commit: the given one, or the present one of the branch or tag.

    Returns:
        The folder and the commit.
    """
    try:
        if revision and _COMMIT.fullmatch(revision):
            try:
                return _get_snapshot(repository, revision, cache_dir, local_only=True), revision
            except OSError:
                commit = revision  # not in the cache
        else:
            commit = str(HfApi().model_info(repository, revision=revision).sha)
        return _get_snapshot(repository, commit, cache_dir, local_only=False), commit
    except GatedRepoError as error:
        raise BadModel(f"{repository} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise BadModel(f"{repository} has no revision {revision}; give an existing commit, branch or tag") from error
    except RepositoryNotFoundError as error:
        raise BadModel(f"the hub has no model {repository}, or it is private: check the name, set HF_TOKEN") from error
    except (HTTPError, OSError, ValueError) as error:  # no network, or an id or a cache that the client refuses
        raise BadModel(
            f"{repository} is neither a local path nor available from the hub ({type(error).__name__}); without a "
            "network give a folder with safetensors or a GGUF file"
        ) from error


def _get_snapshot(repository: str, commit: str, cache_dir: Path, *, local_only: bool) -> Path:
    folder = Path(
        snapshot_download(
            repository,
            revision=commit,
            cache_dir=cache_dir / "hub",
            allow_patterns=list(MODEL_FILE_PATTERNS),
            local_files_only=local_only,
        )
    )
    require_intact_snapshot(folder)
    return folder


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    transformers_logging.disable_progress_bar()
    with _translate_errors("the model's tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BadModel("the tokenizer has neither a padding nor an end-of-sequence token; set one of them")
        tokenizer.pad_token = tokenizer.eos_token  # masks are computed from lengths, not from this token
    tokenizer.padding_side = "left"
    return tokenizer


def _load_and_probe(folder: Path, device: torch.device) -> PreTrainedModel:
    """Load the model with packed attention, or else its own, and store its capabilities on it.

    Raises BadModel if a batch does not give the scores of single texts either way.
    """
    model, batches = _load_with_attention(folder, device)
    _require_finite(model)
    max_short_rope_tokens = get_max_short_rope_tokens(model)
    if max_short_rope_tokens is not None:
        batches = "padded"
    set_capabilities(model, Capabilities(batches, max_short_rope_tokens=max_short_rope_tokens))
    try:
        require_causal(model)
        if batches == "padded":
            require_padding(model)
    except ValueError as error:
        raise BadModel(str(error)) from error
    except Exception as error:  # an architecture that requires images, states or other inputs
        raise BadModel(f"{type(model).__name__} cannot be run on text alone: {error}") from error
    set_capabilities(
        model,
        Capabilities(batches, supports_cache=can_decode_cached(model), max_short_rope_tokens=max_short_rope_tokens),
    )
    return model


def _load_with_attention(folder: Path, device: torch.device) -> tuple[PreTrainedModel, BatchLayout]:
    """Load with packed attention, or with the architecture's own if that fails."""
    try:
        model = _load_weights(folder, PACKED_ATTENTION).to(device)
        check_isolation(model)
    except _AttentionRefusedError:
        pass
    except ValueError:
        del model  # before the second one is loaded
    else:
        return model, "packed"
    return _load_weights(folder, None).to(device), "padded"


def _load_weights(folder: Path, attention: str | None) -> PreTrainedModel:
    """Load float32 weights in eval mode, with the architecture's own attention if `attention` is None."""
    with _translate_errors("the model"), _detect_refused_attention(attention):
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_loaded_tensors(model, folder, loading_info)
    untie_output_head(model)
    model.eval()
    return cast("PreTrainedModel", model)


class _AttentionRefusedError(Exception):
    """The architecture does not support another attention function."""


@contextmanager
def _detect_refused_attention(attention: str | None) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError) as error:
        if attention is not None and attention in str(error):
            raise _AttentionRefusedError from error
        raise


@contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Turn any exception of transformers' loaders into BadModel, except errors of the machine."""
    try:
        yield
    except _AttentionRefusedError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the machine
        raise BadModel(f"transformers cannot load {what}: {error}") from error


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise BadModel(
            f"the tokenizer has {len(tokenizer)} tokens, but the model has {num_embeddings} embeddings; give the "
            "model's own tokenizer"
        )

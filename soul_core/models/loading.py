"""Loads the base model and its tokenizer: a folder, a GGUF file, or a hub id pinned to a commit. Safetensors only.

Parameters are float32 always: they are the master weights, and a step of 2e-5 moves few weights of a bfloat16 copy.
Computing in bfloat16 is `Loaded.autocast()`, which trainer and evaluation open around their forward passes.
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
    """A model ready to train or to measure, in eval mode; its tokenizer pads on the left."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: ModelFacts
    device: torch.device
    compute_dtype: torch.dtype
    chat: ChatSettings = field(default_factory=ChatSettings)

    @property
    def encoder(self) -> RowEncoder:
        """What turns rows into this model's tokens."""
        return RowEncoder(self.tokenizer, self.chat)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context forward passes run in: bfloat16 matrix products over float32 weights, or nothing."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16, cache_enabled=False
        )


def get_default_cache_dir() -> Path:
    """Return the folder of downloads, converted models and this user's key of row digests."""
    return Path.home() / ".cache" / "soul"


def choose_device(requested: str | torch.device = "auto") -> torch.device:
    """Return the device; "auto" is the GPU where there is one. Raises BadSpec for a GPU that is not there."""
    if str(requested) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(requested)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadSpec("device: cuda was asked for, but this machine has no usable GPU; say auto or cpu")
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
    """Load `source` with float32 parameters on `device`; `dtype` is the compute type, `chat_template` replaces its own.

    A GGUF file is dequantized once into `cache_dir`, a hub id is downloaded into it (default: ~/.cache/soul).
    `digest` is the one it was registered with, `shown` what errors call it.
    Raises BadModel with what to do about it, also when the model is not the registered one.
    """
    device = choose_device(device)
    cache_dir = Path(cache_dir) if cache_dir else get_default_cache_dir()
    folder, own_digest = _local_folder(source, revision, cache_dir)
    before = read_file_stamps(folder)
    inspection = inspect_model(folder, hash_files=own_digest is None)
    require_digest(display_name or str(source), own_digest or inspection.digest, digest)
    tokenizer = _load_tokenizer(folder)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    model = _load_capable(folder, device)
    copy_parameters_to_memory(model)
    require_unchanged(display_name or str(source), folder, before)
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
            "weights hold NaN or infinity: the file is damaged, or its training diverged", details=tuple(wrong[:20])
        )


def _local_folder(source: Path | str, revision: str | None, cache_dir: Path) -> tuple[Path, str | None]:
    """Return a folder of safetensors for any source, and its digest where that is not the folder's own."""
    path = Path(source)
    if path.is_file():
        digest = inspect_model(path).digest
        return convert_to_folder(path, digest=digest, cache_dir=cache_dir), digest
    if path.is_dir():
        return path, None
    if not _HUB_ID.fullmatch(str(source)):
        raise BadModel(f"there is no model at {source}")
    return _from_hub(str(source), revision, cache_dir)


def _from_hub(repository: str, revision: str | None, cache_dir: Path) -> tuple[Path, str]:
    """Download what loading reads, at a commit: the given one, or the one the branch or tag stands at now."""
    try:
        if revision and _COMMIT.fullmatch(revision):
            try:
                return _snapshot(repository, revision, cache_dir, local_only=True), revision
            except OSError:
                commit = revision  # not in the cache yet
        else:
            commit = str(HfApi().model_info(repository, revision=revision).sha)
        return _snapshot(repository, commit, cache_dir, local_only=False), commit
    except GatedRepoError as error:
        raise BadModel(f"{repository} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise BadModel(f"{repository} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise BadModel(f"the hub has no model {repository}, or it is private: check the name, set HF_TOKEN") from error
    except (HTTPError, OSError, ValueError) as error:  # no network, or an id or a cache the client refuses
        raise BadModel(
            f"{repository} is neither a local path nor to be had from the hub ({type(error).__name__}); where there is "
            "no network give a folder with safetensors or a GGUF file"
        ) from error


def _snapshot(repository: str, commit: str, cache_dir: Path, *, local_only: bool) -> Path:
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
    with _bad_model("the model's tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BadModel("the tokenizer has neither a padding nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token  # harmless: masks come from lengths
    tokenizer.padding_side = "left"
    return tokenizer


def _load_capable(folder: Path, device: torch.device) -> PreTrainedModel:
    """Load the model with packed attention, or with its own where it cannot take that; find out what it can do.

    Raises BadModel where neither way gives the scores of single texts.
    """
    model, batches = _load_with_attention(folder, device)
    _require_finite(model)
    switch = get_max_short_rope_tokens(model)
    if switch is not None:
        batches = "padded"
    set_capabilities(model, Capabilities(batches, max_short_rope_tokens=switch))
    try:
        require_causal(model)
        if batches == "padded":
            require_padding(model)
    except ValueError as error:
        raise BadModel(str(error)) from error
    except Exception as error:  # an architecture that wants images, or states, or whatever a text is not
        raise BadModel(f"{type(model).__name__} cannot be run on text alone: {error}") from error
    set_capabilities(
        model, Capabilities(batches, supports_cache=can_decode_cached(model), max_short_rope_tokens=switch)
    )
    return model


def _load_with_attention(folder: Path, device: torch.device) -> tuple[PreTrainedModel, BatchLayout]:
    """Load with the attention that packed batches need, else with the architecture's own."""
    try:
        model = _load_weights(folder, PACKED_ATTENTION).to(device)
        check_isolation(model)
    except _AttentionRefusedError:
        pass
    except ValueError:
        del model  # before there is a second one
    else:
        return model, "packed"
    return _load_weights(folder, None).to(device), "padded"


def _load_weights(folder: Path, attention: str | None) -> PreTrainedModel:
    """Load float32 weights in eval mode; `attention` None is the architecture's own. Raises BadModel."""
    with _bad_model("the model"), _attention_refused(attention):
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_loaded_tensors(model, folder, told)
    untie_output_head(model)
    model.eval()
    return cast("PreTrainedModel", model)


class _AttentionRefusedError(Exception):
    """The architecture was written before attention could be exchanged."""


@contextmanager
def _attention_refused(attention: str | None) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError) as error:
        if attention is not None and attention in str(error):
            raise _AttentionRefusedError from error
        raise


@contextmanager
def _bad_model(what: str) -> Iterator[None]:
    """Turn what loaders of weights, configs and tokenizers raise, `Exception` itself too, into BadModel."""
    try:
        yield
    except _AttentionRefusedError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the model's
        raise BadModel(f"transformers cannot load {what}: {error}") from error


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise BadModel(f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {num_embeddings} only")

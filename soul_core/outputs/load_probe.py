"""The load probe: an exported model's log-probabilities of fixed pseudo-random tokens, stored with its weights.

With it a user can check that a loaded model computes the measured numbers. Imports nothing but torch, so that it runs
with any version of transformers. It has no text of a data set: token ids are random, and its only text is its own.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from soul_core.outputs.layout import LOAD_PROBE

_FORMAT = 1
#: Long enough to detect another rotary base or scaling, short enough for a CPU.
_LENGTHS = (192, 24)
_SEED = 20260101
#: Letters, digits, spaces, line ends, scripts and marks, in which tokenizers of two versions may differ.
PROBE_TEXT = "Ships sail at 10:45, don't they?  Über 1995 km…\n\t日本語 हिन्दी ไทย 🚢 x_1 = [3.5]\n\n"
_TURNS = ({"role": "user", "content": "Which ship sails at noon?"}, {"role": "assistant", "content": "The third."})

#: Maximum difference of a log-probability, in nats, by the type of computation. Two implementations of float32
#: attention differ by about 1e-5; a 16-bit computation rounds every intermediate value.
LOGPROB_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}


@dataclass(frozen=True)
class ProbeSequence:
    """One sequence of token ids, with the log-probability in nats of each token after the first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class LoadProbe:
    """The numbers and digests to compare.

    Attributes:
        dtype: Type of the exported weights, or `mixed`.
        written_by: Library -> version.
        sequences: Log-probabilities, computed in float32.
        text_token_ids: `PROBE_TEXT` as token ids; None without a tokenizer.
        chat_sha256: Digest of two fixed turns rendered by the chat template; None if it fails or reads the date.
        is_adapter: The weights are adapters, and the numbers are those of the base model with them.
    """

    dtype: str
    written_by: Mapping[str, str]
    sequences: tuple[ProbeSequence, ...]
    text_token_ids: tuple[int, ...] | None
    chat_sha256: str | None
    is_adapter: bool = False

    def write(self, folder: Path) -> None:
        """Write the probe to the folder of the weights."""
        content = {"format": _FORMAT, "text": PROBE_TEXT, **asdict(self)}
        (folder / LOAD_PROBE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "LoadProbe":
        """Read a probe. Raises ValueError if the file is damaged or of another version."""
        try:
            content = json.loads((folder / LOAD_PROBE).read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT or content.pop("text") != PROBE_TEXT:
                raise ValueError(f"another version of SOUL wrote {LOAD_PROBE}; verify with that version")
            sequences = tuple(
                ProbeSequence(tuple(sequence["token_ids"]), tuple(sequence["logprobs"]))
                for sequence in content.pop("sequences")
            )
            ids = content.pop("text_token_ids")
            return cls(sequences=sequences, text_token_ids=None if ids is None else tuple(ids), **content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{LOAD_PROBE} is incomplete; download it again") from error


def compute_load_probe(
    model: Any, tokenizer: Any, *, dtype: str, versions: Mapping[str, str], is_adapter: bool = False
) -> LoadProbe:
    """Compute the probe of a model, which must compute in float32, and its tokenizer."""
    vocabulary, context = model.get_input_embeddings().num_embeddings, _get_context_length(model)
    generator = random.Random(_SEED)  # noqa: S311  not a secret
    sequences = []
    for length in _LENGTHS:
        token_ids = tuple(generator.randrange(vocabulary) for _ in range(min(length, context)))
        rounded = tuple(round(value, 6) for value in compute_logprobs(model, token_ids))
        sequences.append(ProbeSequence(token_ids, rounded))
    return LoadProbe(
        dtype,
        dict(versions),
        tuple(sequences),
        encode_probe_text(tokenizer),
        compute_chat_sha256(tokenizer),
        is_adapter,
    )


@torch.no_grad()
def compute_logprobs(model: Any, token_ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each token after the first, in nats."""
    ids_1T = torch.tensor([list(token_ids)], device=next(model.parameters()).device)
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    return logits_TV.log_softmax(-1).gather(-1, ids_1T[0, 1:, None])[:, 0].tolist()


def encode_probe_text(tokenizer: Any) -> tuple[int, ...] | None:
    """Return `PROBE_TEXT` as token ids, with the tokens that the tokenizer adds."""
    return None if tokenizer is None else tuple(tokenizer(PROBE_TEXT)["input_ids"])


def compute_chat_sha256(tokenizer: Any) -> str | None:
    """Return the digest of the fixed turns as the chat template renders them."""
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or "strftime" in template:
        return None
    try:
        text = tokenizer.apply_chat_template(list(_TURNS), tokenize=False)
    except Exception:  # a template may raise any error
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _get_context_length(model: Any) -> int:
    """Return the maximum number of positions of a model."""
    config = model.config
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")
    known = [value for name in names if isinstance(value := getattr(config, name, None), int)]
    return min(known) if known else max(_LENGTHS)

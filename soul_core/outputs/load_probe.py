"""What an exported model says of fixed pseudo-random tokens, kept beside its weights: others can repeat the comparison.

Imports nothing but torch, so that it runs beside any version of transformers. No subject text is in it: token ids are
drawn, and the one text is its own.
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
#: Long enough that another rotary base or scaling shows; short enough for a CPU.
_LENGTHS = (192, 24)
_SEED = 20260101
#: Letters, digits, spaces, line ends, scripts and marks: where tokenizers of two versions may part.
PROBE_TEXT = "Ships sail at 10:45, don't they?  Über 1995 km…\n\t日本語 हिन्दी ไทย 🚢 x_1 = [3.5]\n\n"
_TURNS = ({"role": "user", "content": "Which ship sails at noon?"}, {"role": "assistant", "content": "The third."})

#: Largest difference of a log-probability, in nats, by the type that the comparison computes in. Two ways to compute
#: float32 attention differ by about 1e-5; a 16-bit computation rounds every intermediate value.
LOGPROB_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}


@dataclass(frozen=True)
class ProbeSequence:
    """One sequence of token ids, and the log-probability, in nats, of each token after the first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class LoadProbe:
    """Everything that is compared.

    Attributes:
        dtype: Type of the exported weights, or `mixed`.
        written_by: Library -> version.
        sequences: What the model says, computed in float32.
        text_token_ids: `TEXT` as the tokenizer reads it; None where there is no tokenizer.
        chat_sha256: Digest of two fixed turns as the chat template writes them; None where it cannot, or asks the date.
        is_adapter: The weights are adapters, and the numbers those of the base model with them.
    """

    dtype: str
    written_by: Mapping[str, str]
    sequences: tuple[ProbeSequence, ...]
    text_token_ids: tuple[int, ...] | None
    chat_sha256: str | None
    is_adapter: bool = False

    def write(self, folder: Path) -> None:
        """Write the probe beside the weights."""
        content = {"format": _FORMAT, "text": PROBE_TEXT, **asdict(self)}
        (folder / LOAD_PROBE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "LoadProbe":
        """Undo `write`. Raises ValueError for a file that is not one."""
        try:
            content = json.loads((folder / LOAD_PROBE).read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT or content.pop("text") != PROBE_TEXT:
                raise ValueError(f"{LOAD_PROBE} was written by another version of SOUL")
            sequences = tuple(
                ProbeSequence(tuple(one["token_ids"]), tuple(one["logprobs"])) for one in content.pop("sequences")
            )
            ids = content.pop("text_token_ids")
            return cls(sequences=sequences, text_token_ids=None if ids is None else tuple(ids), **content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{LOAD_PROBE} is not whole") from error


def compute_load_probe(
    model: Any, tokenizer: Any, *, dtype: str, versions: Mapping[str, str], is_adapter: bool = False
) -> LoadProbe:
    """Ask a model, which computes in float32, and its tokenizer."""
    vocabulary, context = model.get_input_embeddings().num_embeddings, _context(model)
    draw = random.Random(_SEED)  # noqa: S311  nothing secret
    sequences = []
    for length in _LENGTHS:
        token_ids = tuple(draw.randrange(vocabulary) for _ in range(min(length, context)))
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
    """Return `TEXT` as tokens, with whatever the tokenizer puts around it."""
    return None if tokenizer is None else tuple(tokenizer(PROBE_TEXT)["input_ids"])


def compute_chat_sha256(tokenizer: Any) -> str | None:
    """Return the digest of the fixed turns as the chat template writes them."""
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or "strftime" in template:
        return None
    try:
        text = tokenizer.apply_chat_template(list(_TURNS), tokenize=False)
    except Exception:  # a template may refuse any turns, in its own words
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _context(model: Any) -> int:
    """Return how many positions the model has."""
    config = model.config
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")
    known = [value for name in names if isinstance(value := getattr(config, name, None), int)]
    return min(known) if known else max(_LENGTHS)

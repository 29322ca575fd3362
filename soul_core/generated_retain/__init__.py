"""Makes the retain set of a job that has none: rows that the base model writes, without the facts of the forget set.

`subjects` finds what the forget rows are about, `openings` where the model begins, `generator` lets it write,
`screening` refuses rows, this module joins the parts and stores them. The rows may hold personal data: no event and no
log line has them.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from soul_core.atomic_io import translate_disk_errors, write_atomically
from soul_core.data import Message, Row, RowsBySet, compute_canonical_sha256
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.generated_retain.generator import RowGenerator
from soul_core.generated_retain.screening import Screening
from soul_core.generated_retain.subjects import ForgetSubjects
from soul_core.models.loading import LoadedModel
from soul_core.report import GeneratedRetainFacts, RetainPart
from soul_core.spec import JobSpec, is_forget_set
from soul_core.spec.generated_retain import GenerateRetain

_FILE = "generated_retain.json"


@dataclass(frozen=True)
class GeneratedRetain:
    """The retain set, and how it was made."""

    rows: tuple[Row, ...]
    facts: GeneratedRetainFacts


def make_retain_set(
    loaded: LoadedModel, rows_by_set: RowsBySet, spec: JobSpec, *, folder: Path, listener: Listener
) -> GeneratedRetain:
    """Return the retain set that the base model makes for these forget sets; a resumed run reads it from `folder`.

    Raises:
        BadData: No row passes the screening.
        RunCancelledError, RunInterruptedError: A stop was requested.
    """
    forget = [row for name, rows in rows_by_set.items() if is_forget_set(name) for row in rows]
    path, identity = folder / _FILE, _make_identity(loaded, forget, spec)
    if path.exists() and (stored := json.loads(path.read_bytes()))["identity"] == identity:
        return GeneratedRetain(
            tuple(map(_read_row, stored["rows"])), GeneratedRetainFacts.model_validate(stored["facts"])
        )
    generated = _generate(loaded, forget, spec, listener)
    content = {
        "identity": identity,
        "facts": generated.facts.model_dump(mode="json"),
        "rows": list(map(_dump_row, generated.rows)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with translate_disk_errors("the generated retain set"):
        write_atomically(path, json.dumps(content))
    return generated


def load_general_prompts() -> tuple[str, ...]:
    """Return the general prompts that SOUL ships."""
    text = (files("soul_core.generated_retain") / "general_prompts.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _generate(loaded: LoadedModel, forget: Sequence[Row], spec: JobSpec, listener: Listener) -> GeneratedRetain:
    started_at = time.monotonic()
    settings = spec.data.auto_retain
    assert isinstance(settings, GenerateRetain)
    max_tokens = min(spec.training.max_tokens, loaded.facts.context_tokens)
    generator = RowGenerator(loaded, settings, listener, seed=spec.seed, max_tokens=max_tokens)
    subjects = ForgetSubjects(forget)
    prompts = Random(spec.seed).sample(load_general_prompts(), settings.general)  # noqa: S311  no secret
    # unscreened, as examples of common words: they are needed before anything can be screened
    general = generator.answer([Row(number, (Message("user", text),), "") for number, text in enumerate(prompts, 1)])
    screening = Screening(forget, subjects.collect_protected_words(general))
    parts: dict[RetainPart, list[Row]] = {"neighbors": [], "general": [], "free": []}
    asked = [row for row in general if screening.accepts_prompt(row.messages[-1].content)]
    parts["general"] = generator.select(asked, screening)
    parts |= generator.write(forget, subjects, screening)
    rows = [row for part in parts.values() for row in part]
    rows = [Row(number, row.messages, row.completion) for number, row in enumerate(rows, 1)]
    facts = GeneratedRetainFacts(
        sha256=compute_canonical_sha256(rows),
        num_rows={part: len(part_rows) for part, part_rows in parts.items()},
        requested_rows={"neighbors": settings.neighbors, "general": settings.general, "free": settings.free},
        refused=dict(sorted(screening.refused.items())),
        seed=spec.seed,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seconds=round(time.monotonic() - started_at, 1),
    )
    if not rows:
        refused = ", ".join(f"{reason} {count}" for reason, count in facts.refused.items())
        raise BadData(
            f"retain set: none was given, and the model wrote no row that can be used ({refused}); give a retain set, "
            'or set retain to {"kind": "none"}'
        )
    counts = ", ".join(f"{part} {count}" for part, count in facts.num_rows.items())
    listener.emit("log", message=f"no retain set was given: the base model made one of {len(rows)} rows ({counts})")
    return GeneratedRetain(tuple(rows), facts)


def _make_identity(loaded: LoadedModel, forget: Sequence[Row], spec: JobSpec) -> str:
    parts = (loaded.facts.digest, compute_canonical_sha256(forget), spec.compute_sha256())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _dump_row(row: Row) -> dict[str, Any]:
    return {"number": row.number, "turns": [(turn.role, turn.content) for turn in row.messages], "text": row.completion}


def _read_row(stored: dict[str, Any]) -> Row:
    turns = tuple(Message(role, content) for role, content in stored["turns"])
    return Row(stored["number"], turns, stored["text"])

"""TOFU as the engine's data sets: read from the data folder beside the checkout, written only into the work folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DATA_FOLDER = Path(__file__).parents[2] / "shared" / "data"
Split = Literal["forget01", "forget05", "forget10"]
#: Rows that no model sees, for each part that is forgotten.
HOLDOUT: dict[Split, str] = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}
#: Learned by every model, so that TOFU's utility can be measured: a model trained on TOFU alone knows none of it.
GENERAL_KNOWLEDGE = ("real_authors", "world_facts")
_GENERAL_TEXTS, _GENERAL_CHARS = 64, 300

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TofuData:
    """The data sets of one split, as files: what is learned, forgotten, kept and measured."""

    folder: Path
    train_target: Path
    train_retrained: Path
    evaluation_sets: dict[str, Path]  # forget, retain, holdout, general, real_authors, world_facts


def write_tofu(
    folder: Path, split: Split = "forget10", *, num_retain_rows: int | None = None, max_rows: int | None = None
) -> TofuData:
    """Write the sets of a split below `folder`. `kept_rows`: so many of the 3600 rows that no split forgets; `most`: no
    set of the others is longer. The target's rows are the same for all splits.

    Rows that TOFU gives paraphrased and wrong answers for carry them (all of the forget set, the first 400 of the
    retain set), so that truth ratios can be taken. Raises FileNotFoundError where the data is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    forget = _read(f"{split}_perturbed")[-(max_rows or 0) :]
    tail = _read("forget10")[-(max_rows or 0) :]
    full = _read("retain90")[:num_retain_rows] + tail
    others = {(row["question"], row["answer"]): row for row in _read("retain_perturbed")}  # a question comes twice
    retain = [others.get((row["question"], row["answer"]), row) for row in full[: len(full) - len(forget)]]
    general = {name: _read(f"{name}_perturbed")[:max_rows] for name in GENERAL_KNOWLEDGE}
    learned = _plain([row for rows in general.values() for row in rows])
    return TofuData(
        folder,
        _write(folder / "train_target.jsonl", _plain(full) + learned),
        _write(folder / "train_retrained.jsonl", _plain(retain) + learned),
        {
            "forget": _write(folder / "forget.jsonl", forget),
            "retain": _write(folder / "retain.jsonl", retain),
            "holdout": _write(folder / "holdout.jsonl", _read(HOLDOUT[split])[:max_rows]),
            "general": _write(folder / "general.jsonl", _texts()[:max_rows]),
            **{name: _write(folder / f"{name}.jsonl", rows) for name, rows in general.items()},
        },
    )


def _read(name: str) -> Rows:
    text = (DATA_FOLDER / "tofu" / f"{name}.json").read_text()
    return list(json.loads(text)) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]


def _plain(rows: Sequence[dict[str, Any]]) -> Rows:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _texts() -> Rows:
    """Return beginnings of web pages: unrelated text for perplexity and downstream fine-tuning."""
    lines = (DATA_FOLDER / "c4_sample" / "c4_demo.jsonl").read_text().splitlines()
    return [{"text": json.loads(line)["text"][:_GENERAL_CHARS]} for line in lines[:_GENERAL_TEXTS]]


def _write(path: Path, rows: Rows) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path

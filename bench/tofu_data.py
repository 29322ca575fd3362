"""TOFU as the engine's datasets: read from the data folder next to the checkout, written only into the work folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DATA_FOLDER = Path(__file__).parents[2] / "shared" / "data"
Split = Literal["forget01", "forget05", "forget10"]
#: Split -> rows that no model sees.
HOLDOUT: dict[Split, str] = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}
#: Sets that every model learns, so that TOFU's utility can be measured: a model trained only on TOFU lacks them.
GENERAL_KNOWLEDGE = ("real_authors", "world_facts")
_GENERAL_TEXTS, _GENERAL_CHARS = 64, 300

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TofuData:
    """The datasets of one split, as files: for training, unlearning and measuring."""

    folder: Path
    train_target: Path
    train_retrained: Path
    evaluation_sets: dict[str, Path]  # forget, retain, holdout, general, real_authors, world_facts


def write_tofu(
    folder: Path, split: Split = "forget10", *, num_retain_rows: int | None = None, max_rows: int | None = None
) -> TofuData:
    """Write the sets of a split below `folder`. The target's rows are the same for all splits.

    Rows with paraphrased and wrong answers in TOFU have them here too (all of the forget set, the first 400 of the
    retain set), so that truth ratios can be computed.

    Args:
        folder: the folder to write to.
        split: the part of TOFU to forget.
        num_retain_rows: number of the 3600 rows that no split forgets; None: all.
        max_rows: maximum length of the other sets; None: as in TOFU.

    Raises:
        FileNotFoundError: TOFU is not in the data folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    forget = _read(f"{split}_perturbed")[-(max_rows or 0) :]
    tail = _read("forget10")[-(max_rows or 0) :]
    full = _read("retain90")[:num_retain_rows] + tail
    # By question and answer: one question appears twice.
    perturbed = {(row["question"], row["answer"]): row for row in _read("retain_perturbed")}
    retain = [perturbed.get((row["question"], row["answer"]), row) for row in full[: len(full) - len(forget)]]
    knowledge = {name: _read(f"{name}_perturbed")[:max_rows] for name in GENERAL_KNOWLEDGE}
    knowledge_rows = _remove_perturbed_answers([row for rows in knowledge.values() for row in rows])
    return TofuData(
        folder,
        _write(folder / "train_target.jsonl", _remove_perturbed_answers(full) + knowledge_rows),
        _write(folder / "train_retrained.jsonl", _remove_perturbed_answers(retain) + knowledge_rows),
        {
            "forget": _write(folder / "forget.jsonl", forget),
            "retain": _write(folder / "retain.jsonl", retain),
            "holdout": _write(folder / "holdout.jsonl", _read(HOLDOUT[split])[:max_rows]),
            "general": _write(folder / "general.jsonl", _read_web_texts()[:max_rows]),
            **{name: _write(folder / f"{name}.jsonl", rows) for name, rows in knowledge.items()},
        },
    )


def _read(name: str) -> Rows:
    text = (DATA_FOLDER / "tofu" / f"{name}.json").read_text()
    return list(json.loads(text)) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]


def _remove_perturbed_answers(rows: Sequence[dict[str, Any]]) -> Rows:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _read_web_texts() -> Rows:
    """Return the beginnings of web pages: unrelated text for perplexity and downstream fine-tuning."""
    lines = (DATA_FOLDER / "c4_sample" / "c4_demo.jsonl").read_text().splitlines()
    return [{"text": json.loads(line)["text"][:_GENERAL_CHARS]} for line in lines[:_GENERAL_TEXTS]]


def _write(path: Path, rows: Rows) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path

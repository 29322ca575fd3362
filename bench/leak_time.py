"""Measures the time of sampled answers (leak@k) against greedy ones, on SmolLM2-135M: `python -m bench.leak_time`.

The 30 questions are the demo's: its forget set, then its retain set. CPU seconds, which a busy machine changes least.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bench.tables import describe_run, format_table, write_between
from bench.tofu_report import DOCS_FOLDER
from soul_cli.demo_model import fetch_model, get_cache_folder
from soul_core.data.encoding import encode_rows
from soul_core.data.reading import read_rows
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import SilentListener
from soul_core.models.loading import load_model
from soul_core.spec import FORGET, Evaluation

_GREEDY = ("probability", "rouge_l", "keyword_recall")
_SAMPLED = ("leak_at_k", "leak_rouge_l_at_k", "leaked_rows")
_NUM_ROWS = 30
_EXAMPLES = Path(__file__).parents[1] / "examples"
_HEAD = ("dtype", "likelihoods and greedy answers, CPU seconds", "600 sampled answers, CPU seconds")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.leak_time", description=__doc__)
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "evaluation.md")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the CPU seconds of one thread contain no waiting for another
    table = format_table(_HEAD, [_time("float32"), _time("bfloat16")])
    write_between(args.results, "leak_time", f"{describe_run('python -m bench.leak_time')}\n\n{table}")


def _time(dtype: Literal["float32", "bfloat16"]) -> tuple[str, str, str]:
    loaded = load_model(str(fetch_model(get_cache_folder())), device="cpu", dtype=dtype)
    given = [row for name in ("forget", "retain") for row in read_rows(_EXAMPLES / f"{name}.jsonl").rows]
    rows = [replace(row, number=number) for number, row in enumerate(given[:_NUM_ROWS], start=1)]
    selection = EvaluationSet(FORGET, tuple(rows), tuple(encode_rows(rows, loaded.encoder, max_tokens=512)))
    seconds = []
    for metrics in (_GREEDY, _SAMPLED):
        started_at = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            measure(
                loaded,
                [selection],
                Evaluation(metrics=metrics, num_answer_samples=0),
                seed=0,
                micro_batch_tokens=2048,
                phase="evaluate",
                listener=SilentListener(),
                results_dir=Path(folder),
            )
        seconds.append(f"{time.process_time() - started_at:.0f}")
    return dtype, seconds[0], seconds[1]


if __name__ == "__main__":
    main()

"""Multiple-choice benchmarks as data sets of rows: `python -m soul_core.tasks.multiple_choice mmlu FOLDER > m.jsonl`.

A row holds the question as its prompt, the right choice as its completion and the wrong ones in `perturbed_answer`,
which is what the metric `choice_accuracy` reads. Give the file to a run as a further set. Torch-free.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from soul_core.errors import BadData, BadSpec, EngineError

CHOICE_LETTERS = "ABCD"
#: Worked examples before an MMLU question: what the benchmark's own tables use.
DEFAULT_NUM_SHOTS = 5
_SEPARATOR = ";"

JsonObject = dict[str, Any]


def read_mmlu(
    folder: Path, *, subjects: Sequence[str] = (), num_shots: int = DEFAULT_NUM_SHOTS, max_questions: int | None = None
) -> list[JsonObject]:
    """Return MMLU's test questions with worked examples of their subject before them.

    `folder` holds `test/SUBJECT_test.csv` and, for `shots` examples, `dev/SUBJECT_dev.csv`. With `limit` that many
    questions, drawn over all subjects by a fixed seed. Raises BadData for what is no MMLU, BadSpec for a subject that
    is not there.
    Source: Hendrycks et al. (arXiv:2009.03300); prompt as in their evaluation.
    Differs from their code: the choice is ranked by its likelihood with the end of the answer, not by one letter's
    logit, so that chat models, which write no space before the letter, are asked fairly.
    """
    found = sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))
    if not found:
        raise BadData(f"{folder} holds no MMLU: no test/SUBJECT_test.csv")
    if unknown := sorted(set(subjects) - set(found)):
        raise BadSpec(f"no such subjects: {', '.join(unknown)}; there are: {', '.join(found)}")
    records = []
    for subject in subjects or found:
        lead = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        examples = list(_questions(folder / "dev" / f"{subject}_dev.csv"))[:num_shots] if num_shots else []
        if len(examples) < num_shots:
            raise BadData(f"{subject} has {len(examples)} worked examples, {num_shots} were asked for")
        lead += "".join(f"{_ask(question)} {question['letter']}\n\n" for question in examples)
        records += [
            {
                "prompt": lead + _ask(question),
                "completion": question["letter"],
                "perturbed_answer": [letter for letter in CHOICE_LETTERS if letter != question["letter"]],
                "subject": subject,
            }
            for question in _questions(folder / "test" / f"{subject}_test.csv")
        ]
    return _sample(records, max_questions)


def read_truthfulqa(file: Path, *, max_questions: int | None = None) -> list[JsonObject]:
    """Return TruthfulQA's questions with the best answer and the wrong ones: its single-true task (MC1).

    Raises BadData for what is no TruthfulQA.
    Source: Lin et al. (arXiv:2109.07958), section 2.2.
    Differs from their code: no worked examples before the question, and answers compete by their likelihood a token.
    """
    records = []
    for number, record in _read_csv(file):
        try:
            wrong = [text.strip() for text in record["Incorrect Answers"].split(_SEPARATOR) if text.strip()]
            right = record["Best Answer"].strip()
            question = record["Question"].strip()
        except KeyError as error:
            raise BadData(f"{file} is no TruthfulQA: row {number} has no column {error}") from error
        records.append({"prompt": question, "completion": right, "perturbed_answer": wrong})
    return _sample(records, max_questions)


def _questions(file: Path) -> Iterator[JsonObject]:
    for number, record in _read_csv(file):
        try:
            letter = CHOICE_LETTERS[int(record["answer"])]
            choices = [record[f"choice{i}"] for i in range(len(CHOICE_LETTERS))]
            yield {"question": record["question"].strip(), "choices": choices, "letter": letter}
        except (KeyError, ValueError, IndexError) as error:
            raise BadData(f"{file} is no MMLU: row {number} is not question, choice0 to choice3, answer 0-3") from error


def _ask(question: JsonObject) -> str:
    choices = [f"{letter}. {choice}" for letter, choice in zip(CHOICE_LETTERS, question["choices"], strict=True)]
    return "\n".join([question["question"], *choices, "Answer:"])


def _read_csv(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            yield from enumerate(csv.DictReader(stream, restkey="", restval=""), start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _sample(records: list[JsonObject], limit: int | None) -> list[JsonObject]:
    if limit is None or limit >= len(records):
        return records
    chosen = sorted(random.Random(0).sample(range(len(records)), limit))  # noqa: S311  not for secrets
    return [records[i] for i in chosen]


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Write a benchmark's rows as JSON lines to stdout and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.tasks.multiple_choice",
        description="Turn a multiple-choice benchmark into rows that choice_accuracy measures.",
        epilog="example: python -m soul_core.tasks.multiple_choice mmlu mmlu/ --subjects virology > mmlu.jsonl",
    )
    kinds = parser.add_subparsers(dest="benchmark", required=True)
    of_mmlu = kinds.add_parser("mmlu", help="57 subjects, four choices (folder with test/ and dev/)")
    of_mmlu.add_argument("source", type=Path, metavar="FOLDER", help="folder with test/*.csv and dev/*.csv")
    of_mmlu.add_argument("--subjects", nargs="+", default=[], metavar="SUBJECT", help="only these (default: all)")
    of_mmlu.add_argument(
        "--shots",
        type=_count,
        default=DEFAULT_NUM_SHOTS,
        help=f"worked examples, 0 to 5 (default: {DEFAULT_NUM_SHOTS})",
    )
    of_truth = kinds.add_parser("truthfulqa", help="817 questions that invite a common falsehood (CSV file)")
    of_truth.add_argument("source", type=Path, metavar="FILE", help="TruthfulQA.csv")
    for one in (of_mmlu, of_truth):
        one.add_argument("--limit", type=_count, help="that many questions, drawn by a fixed seed (default: all)")
    args = parser.parse_args(arguments)
    try:
        if args.benchmark == "mmlu":
            records = read_mmlu(args.source, subjects=args.subjects, num_shots=args.shots, max_questions=args.limit)
        else:
            records = read_truthfulqa(args.source, max_questions=args.limit)
    except EngineError as error:
        print(f"{parser.prog}: {error.message}", file=sys.stderr)  # noqa: T201  a command's own voice
        return error.exit_code
    for record in records:
        print(json.dumps(record))  # noqa: T201  the rows are what stdout is for
    return 0


if __name__ == "__main__":
    sys.exit(main())

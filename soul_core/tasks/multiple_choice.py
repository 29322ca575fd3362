"""Multiple-choice benchmarks as data sets of rows: `python -m soul_core.tasks.multiple_choice mmlu FOLDER > m.jsonl`.

A row holds the question as its prompt, the right choice as its completion and the wrong ones in `perturbed_answer`,
which the metric `choice_accuracy` reads. Give the file to a run as an additional set. Torch-free.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from soul_core.errors import BadData, BadSpec, EngineError
from soul_core.tasks.task import JsonObject

CHOICE_LETTERS = "ABCD"
#: Few-shot examples before an MMLU question, as in the benchmark's own tables.
DEFAULT_NUM_SHOTS = 5
_SEPARATOR = ";"


def read_mmlu(
    folder: Path, *, subjects: Sequence[str] = (), num_shots: int = DEFAULT_NUM_SHOTS, max_questions: int | None = None
) -> list[JsonObject]:
    """Return MMLU's test questions, each after few-shot examples of its subject.

    Args:
        folder: contains `test/SUBJECT_test.csv` and, for few-shot examples, `dev/SUBJECT_dev.csv`.
        subjects: all if empty.
        num_shots: number of few-shot examples.
        max_questions: that many questions are drawn from all subjects by a fixed seed; None: all.

    Raises:
        BadData: the folder does not contain MMLU.
        BadSpec: a subject does not exist.

    Source: Hendrycks et al. (arXiv:2009.03300); prompt as in their evaluation.
    Differs from their code: choices are ranked by the likelihood of the letter and the end of the answer, not by the
    logit of one letter, so that chat models, which write no space before the letter, are not at a disadvantage.
    """
    available = sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))
    if not available:
        raise BadData(f"{folder} does not contain MMLU: no file test/SUBJECT_test.csv")
    if unknown := sorted(set(subjects) - set(available)):
        raise BadSpec(f"no such subjects: {', '.join(unknown)}; available: {', '.join(available)}")
    records = []
    for subject in subjects or available:
        preamble = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        examples = list(_questions(folder / "dev" / f"{subject}_dev.csv"))[:num_shots] if num_shots else []
        if len(examples) < num_shots:
            raise BadData(f"{subject} has {len(examples)} few-shot examples; set --shots to at most that number")
        preamble += "".join(f"{_ask(question)} {question['letter']}\n\n" for question in examples)
        records += [
            {
                "prompt": preamble + _ask(question),
                "completion": question["letter"],
                "perturbed_answer": [letter for letter in CHOICE_LETTERS if letter != question["letter"]],
                "subject": subject,
            }
            for question in _questions(folder / "test" / f"{subject}_test.csv")
        ]
    return _sample(records, max_questions)


def read_truthfulqa(file: Path, *, max_questions: int | None = None) -> list[JsonObject]:
    """Return TruthfulQA's questions with the best answer and the wrong ones: its single-true task (MC1).

    Raises:
        BadData: the file is not TruthfulQA.

    Source: Lin et al. (arXiv:2109.07958), section 2.2.
    Differs from their code: no few-shot examples before the question, and answers are ranked by likelihood per token.
    """
    records = []
    for number, record in _read_csv(file):
        try:
            wrong = [text.strip() for text in record["Incorrect Answers"].split(_SEPARATOR) if text.strip()]
            right = record["Best Answer"].strip()
            question = record["Question"].strip()
        except KeyError as error:
            raise BadData(f"{file} is not TruthfulQA: row {number} has no column {error}") from error
        records.append({"prompt": question, "completion": right, "perturbed_answer": wrong})
    return _sample(records, max_questions)


def _questions(file: Path) -> Iterator[JsonObject]:
    for number, record in _read_csv(file):
        try:
            letter = CHOICE_LETTERS[int(record["answer"])]
            choices = [record[f"choice{i}"] for i in range(len(CHOICE_LETTERS))]
            yield {"question": record["question"].strip(), "choices": choices, "letter": letter}
        except (KeyError, ValueError, IndexError) as error:
            raise BadData(
                f"{file} is not MMLU: row {number} lacks question, choice0 to choice3 or answer 0-3"
            ) from error


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
        description="Convert a multiple-choice benchmark to rows for the metric choice_accuracy.",
        epilog="example: python -m soul_core.tasks.multiple_choice mmlu mmlu/ --subjects virology > mmlu.jsonl",
    )
    kinds = parser.add_subparsers(dest="benchmark", required=True)
    mmlu = kinds.add_parser("mmlu", help="57 subjects, four choices (folder with test/ and dev/)")
    mmlu.add_argument("source", type=Path, metavar="FOLDER", help="folder with test/*.csv and dev/*.csv")
    mmlu.add_argument("--subjects", nargs="+", default=[], metavar="SUBJECT", help="only these (default: all)")
    mmlu.add_argument(
        "--shots",
        type=_count,
        default=DEFAULT_NUM_SHOTS,
        help=f"few-shot examples, 0 to 5 (default: {DEFAULT_NUM_SHOTS})",
    )
    truthfulqa = kinds.add_parser("truthfulqa", help="817 questions that invite a common falsehood (CSV file)")
    truthfulqa.add_argument("source", type=Path, metavar="FILE", help="TruthfulQA.csv")
    for benchmark in (mmlu, truthfulqa):
        benchmark.add_argument("--limit", type=_count, help="number of questions, drawn by a fixed seed (default: all)")
    args = parser.parse_args(arguments)
    try:
        if args.benchmark == "mmlu":
            records = read_mmlu(args.source, subjects=args.subjects, num_shots=args.shots, max_questions=args.limit)
        else:
            records = read_truthfulqa(args.source, max_questions=args.limit)
    except EngineError as error:
        print(f"{parser.prog}: {error.message}", file=sys.stderr)  # noqa: T201  error message of the command
        return error.exit_code
    for record in records:
        print(json.dumps(record))  # noqa: T201  output of the command
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m soul_core.verify_export FOLDER`: check on this machine that a downloaded model is the measured one.

Compares the files with the manifest, loads the model with the installed transformers, and compares its
log-probabilities of the probe tokens. Exit codes: 0 equal, 2 nothing to check, 9 different.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from soul_core.errors import ExitCode
from soul_core.outputs.layout import LOAD_PROBE, MANIFEST, WEIGHT_FOLDERS
from soul_core.outputs.load_probe import (
    LOGPROB_TOLERANCE,
    LoadProbe,
    compute_chat_sha256,
    compute_logprobs,
    encode_probe_text,
)

#: Files that loading may read. One that the manifest does not list did not come from SOUL.
_LOADED_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".model", ".bin", ".py", ".txt"})


class VerificationNotPossible(Exception):
    """The folder has nothing to check."""


@dataclass(frozen=True)
class CheckResult:
    """One comparison. `passed` is None if it was not possible on this machine."""

    what: str
    passed: bool | None
    detail: str


def verify_export(folder: Path, *, base: str | None = None, dtype: str = "float32") -> list[CheckResult]:
    """Compare an exported folder with the manifest and the probe that were written at its export.

    Args:
        folder: A result folder, or the `checkpoint` or `adapter` folder inside it.
        base: Folder or hub id of the base model, for an adapter.
        dtype: Type of computations: float32 shows whether the weights are right, bfloat16 or float16 how much a
            computation in that type differs.

    Raises:
        VerificationNotPossible: The folder is not an export, or an adapter without its base model.
    """
    weights = _find_weights(folder)
    try:
        probe = LoadProbe.read(weights)
    except ValueError as error:
        raise VerificationNotPossible(str(error)) from error
    if probe.is_adapter and base is None:
        raise VerificationNotPossible("this is an adapter; give its base model with --base")
    results = list(_compare_files(folder, weights))
    if any(result.passed is False for result in results):
        return [*results, CheckResult("model", None, "not loaded, because its files are not the exported ones")]
    return [*results, *_compare_model(weights, probe, base, dtype)]


def _find_weights(folder: Path) -> Path:
    if not folder.is_dir():
        raise VerificationNotPossible(f"there is no folder {folder}; give the folder of a downloaded model")
    for candidate in (folder, *(folder / name for name in WEIGHT_FOLDERS)):
        if (candidate / LOAD_PROBE).is_file():
            return candidate
    raise VerificationNotPossible(
        f"{folder} has no {LOAD_PROBE}: SOUL did not export it, or a version did that wrote no such file"
    )


def _compare_files(folder: Path, weights: Path) -> Iterator[CheckResult]:
    """Compare the files with the manifest, which is in the result folder."""
    root = next((parent for parent in (folder, weights.parent) if (parent / MANIFEST).is_file()), None)
    if root is None:
        yield CheckResult("files", None, f"sha256 not compared, because there is no {MANIFEST} next to them")
        return
    try:
        entries = {root / entry["path"]: entry for entry in json.loads((root / MANIFEST).read_bytes())["files"]}
    except (ValueError, KeyError, TypeError):
        yield CheckResult("files", False, f"{MANIFEST} is damaged; download it again")
        return
    listed = {path: entry for path, entry in entries.items() if path.resolve().is_relative_to(folder.resolve())}
    wrong = [problem for path, entry in listed.items() if (problem := _find_file_problem(path, entry))]
    added = [
        f"{path.name} is not in the manifest"
        for path in sorted(weights.iterdir())
        if path.is_file() and path.suffix in _LOADED_SUFFIXES and path not in listed
    ]
    problems = wrong + added
    success = f"{len(listed)} files have the size and sha256 of {MANIFEST}"
    yield CheckResult("files", not problems, "; ".join(problems[:5]) if problems else success)


def _find_file_problem(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{entry['path']} is missing"
    if path.stat().st_size != entry["size"]:
        return f"{entry['path']} has {path.stat().st_size:,} bytes, {entry['size']:,} in the manifest"
    with path.open("rb") as file:
        return None if file_digest(file, "sha256").hexdigest() == entry["sha256"] else f"{entry['path']} was changed"


def _compare_model(weights: Path, probe: LoadProbe, base: str | None, dtype: str) -> Iterator[CheckResult]:
    import transformers

    library = f"transformers {transformers.__version__}"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base or weights, trust_remote_code=False)
    except Exception as error:  # loaders raise errors of all types
        yield CheckResult("tokenizer", False, f"{library} cannot load it: {error}")
    else:
        tokens, chat_sha256 = encode_probe_text(tokenizer), compute_chat_sha256(tokenizer)
        yield _compare("tokenizer", tokens, probe.text_token_ids, "the probe text has other tokens")
        yield _compare("chat template", chat_sha256, probe.chat_sha256, "it renders the probe turns differently")
    try:
        model, left_over = _load_model(weights, base, dtype)
    except Exception as error:
        yield CheckResult("model", False, f"{library} cannot load it: {error}")
        return
    if left_over:
        yield CheckResult("tensors", False, f"{library} does not find or use these: {', '.join(left_over[:5])}")
    yield _compare_logprobs(model, probe, dtype, library)


def _load_model(weights: Path, base: str | None, dtype: str) -> tuple[Any, list[str]]:
    """Return the model, and the tensors that are missing or were not used.

    Attention is `eager`, because the default of 4.57 leaves out the soft cap of Gemma 2's attention.
    """
    import torch
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model, info = load(
        base or weights, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True,
        attn_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    left_over = sorted({*map(str, info["missing_keys"]), *map(str, info["unexpected_keys"])})
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(weights))
    return model.eval(), left_over


def _compare(what: str, actual: Any, expected: Any, difference: str) -> CheckResult:
    if expected is None:
        return CheckResult(what, None, "not compared, because the export recorded none")
    return CheckResult(what, actual == expected, "as at the export" if actual == expected else difference)


def _compare_logprobs(model: Any, probe: LoadProbe, dtype: str, library: str) -> CheckResult:
    largest = max(
        abs(actual - expected)
        for sequence in probe.sequences
        for actual, expected in zip(compute_logprobs(model, sequence.token_ids), sequence.logprobs, strict=True)
    )
    count, bound = sum(len(sequence.logprobs) for sequence in probe.sequences), LOGPROB_TOLERANCE[dtype]
    detail = (
        f"{count} log-probabilities by {library} in {dtype}: largest difference {largest:.2g}, allowed {bound:g} nats; "
        f"the weights are {probe.dtype}"
    )
    return CheckResult("model", largest <= bound, detail)  # NaN never passes


def main(arguments: list[str] | None = None) -> int:
    """Check, print a line for each comparison, and return the exit code."""
    args = _make_parser().parse_args(arguments)
    try:
        results = verify_export(args.folder, base=args.base, dtype=args.dtype)
    except VerificationNotPossible as error:
        print(f"not checked: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_INPUT
    passed = all(result.passed is not False for result in results)
    if args.json:
        content = {"passed": passed, "findings": [asdict(result) for result in results]}
        print(json.dumps(content, indent=2))  # noqa: T201
    else:
        words = {True: "same", False: "DIFFERS", None: "skipped"}
        for result in results:
            print(f"{words[result.passed]:8} {result.what}: {result.detail}")  # noqa: T201
        print("PASSED: this is the measured model" if passed else "FAILED: this is not the measured model")  # noqa: T201
    return ExitCode.OK if passed else ExitCode.MISMATCH


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.verify_export",
        description="Check on this machine that an exported model is the measured one.",
    )
    parser.add_argument("folder", type=Path, help="result folder, or the checkpoint or adapter folder in it")
    parser.add_argument("--base", help="base model of an adapter: folder or hub id")
    parser.add_argument("--dtype", default="float32", choices=sorted(LOGPROB_TOLERANCE), help="type to compute in")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

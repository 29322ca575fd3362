"""`python -m soul_core.verify_export FOLDER`: compare a downloaded model with what was measured, on this machine.

Compares the files with the manifest, loads the model by whatever transformers is installed, and compares what it says
of the probe tokens. Exit codes: 0 all agrees, 2 nothing to check, 9 something differs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from soul_core.outputs.layout import LOAD_PROBE, MANIFEST, WEIGHT_FOLDERS
from soul_core.outputs.load_probe import (
    LOGPROB_TOLERANCE,
    LoadProbe,
    compute_chat_sha256,
    compute_logprobs,
    encode_probe_text,
)

AGREES, NOTHING_TO_CHECK, DIFFERS = 0, 2, 9
#: What loading may read: a file of these kinds that the manifest does not name was put there by somebody else.
_READ = frozenset({".safetensors", ".json", ".jinja", ".model", ".bin", ".py", ".txt"})


class VerificationNotPossible(Exception):
    """There is nothing here that could be checked."""


@dataclass(frozen=True)
class CheckResult:
    """One thing that was compared. `passed` is None for what could not be compared here."""

    what: str
    passed: bool | None
    detail: str


def verify_export(folder: Path, *, base: str | None = None, dtype: str = "float32") -> list[CheckResult]:
    """Compare an exported folder with what was written down at its export.

    Args:
        folder: A result folder, or the `checkpoint` or `adapter` folder inside it.
        base: Folder or hub id of the base model, for an adapter.
        dtype: Type to compute in: float32 tells whether the weights are right; bfloat16 or float16 how far a
            computation in that type is from it.

    Raises NotChecked when the folder is no export, or an adapter without its base.
    """
    weights = _weights_folder(folder)
    try:
        probe = LoadProbe.read(weights)
    except ValueError as error:
        raise VerificationNotPossible(str(error)) from error
    if probe.is_adapter and base is None:
        raise VerificationNotPossible("this is an adapter: name the base model it belongs to, with --base")
    findings = list(_files(folder, weights))
    if any(finding.passed is False for finding in findings):
        return [*findings, CheckResult("model", None, "not loaded: its files are not the exported ones")]
    return [*findings, *_model(weights, probe, base, dtype)]


def _weights_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise VerificationNotPossible(f"there is no folder {folder}")
    for candidate in (folder, *(folder / name for name in WEIGHT_FOLDERS)):
        if (candidate / LOAD_PROBE).is_file():
            return candidate
    raise VerificationNotPossible(
        f"{folder} holds no {LOAD_PROBE}: it was not exported by SOUL, or by a version before it wrote one"
    )


def _files(folder: Path, weights: Path) -> Iterator[CheckResult]:
    """Compare the files with the manifest, which lies in the result folder."""
    root = next((place for place in (folder, weights.parent) if (place / MANIFEST).is_file()), None)
    if root is None:
        yield CheckResult("files", None, f"no {MANIFEST} beside them: sha256 not compared")
        return
    try:
        entries = {root / entry["path"]: entry for entry in json.loads((root / MANIFEST).read_bytes())["files"]}
    except (ValueError, KeyError, TypeError):
        yield CheckResult("files", False, f"{MANIFEST} is damaged")
        return
    listed = {path: entry for path, entry in entries.items() if path.resolve().is_relative_to(folder.resolve())}
    wrong = [problem for path, entry in listed.items() if (problem := _problem(path, entry))]
    extra = [
        f"{path.name} is not in the manifest"
        for path in sorted(weights.iterdir())
        if path.is_file() and path.suffix in _READ and path not in listed
    ]
    problems = wrong + extra
    agreed = f"{len(listed)} files have the size and sha256 of {MANIFEST}"
    yield CheckResult("files", not problems, "; ".join(problems[:5]) if problems else agreed)


def _problem(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{entry['path']} is missing"
    if path.stat().st_size != entry["size"]:
        return f"{entry['path']} has {path.stat().st_size:,} bytes, the manifest says {entry['size']:,}"
    with path.open("rb") as file:
        return None if file_digest(file, "sha256").hexdigest() == entry["sha256"] else f"{entry['path']} was changed"


def _model(weights: Path, probe: LoadProbe, base: str | None, dtype: str) -> Iterator[CheckResult]:
    import transformers

    here = f"transformers {transformers.__version__}"
    try:
        tokenizer = _load_tokenizer(weights, base)
    except Exception as error:  # loaders raise all kinds
        yield CheckResult("tokenizer", False, f"{here} cannot load it: {error}")
    else:
        yield _same(
            "tokenizer", encode_probe_text(tokenizer), probe.text_token_ids, "the probe text becomes other tokens"
        )
        yield _same(
            "chat template", compute_chat_sha256(tokenizer), probe.chat_sha256, "it writes the probe turns otherwise"
        )
    try:
        model, left_over = _load_model(weights, base, dtype)
    except Exception as error:
        yield CheckResult("model", False, f"{here} cannot load it: {error}")
        return
    if left_over:
        yield CheckResult("tensors", False, f"{here} does not fill or read these: {', '.join(left_over[:5])}")
    yield _numbers(model, probe, dtype, here)


def _load_tokenizer(weights: Path, base: str | None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base or weights, trust_remote_code=False)


def _load_model(weights: Path, base: str | None, dtype: str) -> tuple[Any, list[str]]:
    """Return the model, and tensors that are missing or were not read.

    Attention is computed the plain way: 4.57's default leaves out the soft cap of Gemma 2's attention.
    """
    import torch
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model, told = load(
        base or weights, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True,
        attn_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    left_over = sorted({*map(str, told["missing_keys"]), *map(str, told["unexpected_keys"])})
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(weights))
    return model.eval(), left_over


def _same(what: str, found: Any, wanted: Any, trouble: str) -> CheckResult:
    if wanted is None:
        return CheckResult(what, None, "nothing was written down to compare with")
    return CheckResult(what, found == wanted, "as at the export" if found == wanted else trouble)


def _numbers(model: Any, probe: LoadProbe, dtype: str, here: str) -> CheckResult:
    largest = max(
        abs(found - wanted)
        for sequence in probe.sequences
        for found, wanted in zip(compute_logprobs(model, sequence.token_ids), sequence.logprobs, strict=True)
    )
    count, bound = sum(len(sequence.logprobs) for sequence in probe.sequences), LOGPROB_TOLERANCE[dtype]
    detail = (
        f"{count} log-probabilities by {here} in {dtype}: largest difference {largest:.2g}, allowed {bound:g} nats; "
        f"weights are {probe.dtype}"
    )
    return CheckResult("model", largest <= bound, detail)  # NaN passes nothing


def main(arguments: list[str] | None = None) -> int:
    """Check, print a line for each finding, and return the exit code."""
    args = _parser().parse_args(arguments)
    try:
        findings = verify_export(args.folder, base=args.base, dtype=args.dtype)
    except VerificationNotPossible as error:
        print(f"not checked: {error}", file=sys.stderr)  # noqa: T201
        return NOTHING_TO_CHECK
    passed = all(finding.passed is not False for finding in findings)
    if args.json:
        content = {"passed": passed, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(content, indent=2))  # noqa: T201
    else:
        words = {True: "same", False: "DIFFERS", None: "skipped"}
        for finding in findings:
            print(f"{words[finding.passed]:8} {finding.what}: {finding.detail}")  # noqa: T201
        print("PASSED: this is the measured model" if passed else "FAILED: this is not the measured model")  # noqa: T201
    return AGREES if passed else DIFFERS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.verify_export",
        description="Say whether an exported model is, on this machine, the one that was measured.",
    )
    parser.add_argument("folder", type=Path, help="result folder, or the checkpoint or adapter folder in it")
    parser.add_argument("--base", help="base model of an adapter: folder or hub id")
    parser.add_argument("--dtype", default="float32", choices=sorted(LOGPROB_TOLERANCE), help="type to compute in")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return parser


if __name__ == "__main__":
    sys.exit(main())

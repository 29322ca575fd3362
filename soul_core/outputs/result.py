"""Write the result of a run: weights with model card, report, page, logs and, last, the manifest.

A folder is a result only if it has a manifest: all files that the manifest lists were on disk before it.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from soul_core.atomic_io import compute_sha256, fsync_path, translate_disk_errors, write_atomically
from soul_core.errors import BadSpec
from soul_core.models.loading import LoadedModel
from soul_core.outputs.dtypes import FLOAT32, ExportDtypes
from soul_core.outputs.export import export_checkpoint, get_library_versions
from soul_core.outputs.gguf_check import verify_gguf
from soul_core.outputs.gguf_file import write_gguf
from soul_core.outputs.layout import (
    ADAPTER,
    CHECKPOINT,
    FOLDERS,
    GGUF,
    LOGS,
    MANIFEST,
    MODEL_CARD,
    REPORT,
    REPORT_PAGE,
    WEIGHT_FOLDERS,
    make_gguf_path,
    make_log_path,
)
from soul_core.outputs.load_probe import compute_load_probe
from soul_core.rendering.model_card import render_model_card
from soul_core.rendering.page import render_page
from soul_core.report import GgufFacts, Report
from soul_core.training.adapters import AdapterWeights


def export_weights(
    loaded: LoadedModel, adapter: AdapterWeights | None, out: Path, *, dtypes: ExportDtypes = FLOAT32
) -> None:
    """Write a complete checkpoint, or only the adapter if there is one."""
    if adapter is None:
        export_checkpoint(loaded.model, loaded.tokenizer, out / CHECKPOINT, dtypes=dtypes)
        return
    shutil.rmtree(out / ADAPTER, ignore_errors=True)
    with translate_disk_errors("the adapter"):
        adapter.save(out / ADAPTER)
        probe = compute_load_probe(
            loaded.model, loaded.tokenizer, dtype="float32", versions=get_library_versions(), is_adapter=True
        )
        probe.write(out / ADAPTER)


def export_gguf(loaded: LoadedModel, out: Path, *, kind: str, name: str) -> GgufFacts:
    """Write the GGUF file, read it back, compare it with the weights, and return its facts."""
    shutil.rmtree(out / GGUF, ignore_errors=True)
    path = out / make_gguf_path(kind)
    tokenizer = write_gguf(loaded.model, loaded.tokenizer, path, kind=kind, name=name)
    error = verify_gguf(path, loaded.model, tokenizer, kind=kind)
    return GgufFacts(
        path=make_gguf_path(kind),
        kind=kind,
        max_error=error.max_error,
        relative_error=error.relative_error,
        notes=tokenizer.notes,
    )


def write_report(report: Report, out: Path) -> None:
    """Write report.json, report.html, a log for each model, and a model card in the folder of the weights."""
    write_atomically(out / REPORT, report.model_dump_json(indent=1) + "\n")
    write_atomically(out / REPORT_PAGE, render_page(report))
    (out / LOGS).mkdir(exist_ok=True)
    for name, measurements in report.models.items():
        write_atomically(out / make_log_path(name), measurements.model_dump_json() + "\n")
    for folder in WEIGHT_FOLDERS:
        if (out / folder).exists():
            write_atomically(out / folder / MODEL_CARD, render_model_card(report))


def write_manifest(out: Path) -> None:
    """Flush all files to disk, then write manifest.json with size and sha256 of each."""
    files = []
    with translate_disk_errors("the results"):
        for path in _iter_files(out):
            fsync_path(path)
            files.append(
                {"path": path.relative_to(out).as_posix(), "size": path.stat().st_size, "sha256": compute_sha256(path)}
            )
        for folder in (*(out / name for name in FOLDERS), out):
            if folder.exists():
                fsync_path(folder)
    write_atomically(out / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def read_finished_report(out: Path) -> Report | None:
    """Return the report of a finished run; None without a manifest."""
    if not (out / MANIFEST).exists():
        return None
    try:
        return Report.model_validate_json((out / REPORT).read_text())
    except ValidationError as error:
        raise BadSpec(
            f"{out} has a result that this version of SOUL cannot read ({error.error_count()} fields differ); choose "
            "another output folder, or remove this one to run again"
        ) from error


def discard_outputs(out: Path) -> None:
    """Remove what a run has written so far and no other file. The manifest is removed first."""
    for name in (MANIFEST, REPORT, REPORT_PAGE):
        (out / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)


def _iter_files(out: Path) -> Iterator[Path]:
    """Yield every file of the result in a fixed order. Hidden entries (the run's state) are not part of it."""
    for path in sorted(out.rglob("*")):
        parts = path.relative_to(out).parts
        if path.is_file() and not any(part.startswith(".") for part in parts) and parts != (MANIFEST,):
            yield path

"""`soul report | download`: what a finished job leaves."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from soul_cli.client import SoulClient
from soul_cli.download import DownloadedFile
from soul_cli.errors import BadInput
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, error_console, print_json, print_table
from soul_cli.report_view import print_report
from soul_cli.resources import Artifact
from soul_core.formatting import format_bytes


def show_report(
    job: JobArgument,
    html: Annotated[bool, typer.Option("--html", help="The show_report as one offline page.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="The same page as PDF; needs -o.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it to this file.", show_default=False)] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was measured before and after; `--html -o report.html` writes the page, `--pdf` the same for paper,
    `--json` the source.
    """
    if html + pdf + as_json > 1:
        raise BadInput("give one of --html, --pdf and --json")
    if pdf and out is None:
        raise BadInput("a PDF is no text for a terminal: name a file, --pdf -o report.pdf")
    with connect(url, key, as_json=as_json) as client:
        if html:
            text = client.get_report_html(job)
            if out is None:
                typer.echo(text)
            else:
                out.write_text(text, encoding="utf-8")
                console.print(f"Report written to {out}")
            return
        if pdf and out is not None:
            out.write_bytes(client.get_report_pdf(job))
            console.print(f"Report written to {out}")
            return
        found = client.get_report(job)
    if out is not None:
        out.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
        error_console.print(f"Report written to {out}")
    elif as_json:
        print_json(found)
    else:
        print_report(found, console)


def download(
    job: JobArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to; the job's id otherwise.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download a job's files. What is there already is kept, partial files go on, every sha256 is checked."""
    folder = out or Path(job)
    with connect(url, key, as_json=as_json) as client:
        fetched = download_with_bar(client, job, folder, quiet=as_json)
    if as_json:
        print_json({"folder": str(folder.resolve()), "files": [_fetched_json(one) for one in fetched]})
        return
    rows = [
        (one.path.relative_to(folder), format_bytes(one.size_bytes), _how(one), f"{one.sha256[:16]}… ok")
        for one in fetched
    ]
    print_table(["file", "size", "", "sha256"], rows)
    console.print(f"{len(fetched)} files in {folder.resolve()}, every sha256 as promised", soft_wrap=True)


def download_with_bar(client: SoulClient, job_id: str, folder: Path, *, quiet: bool = False) -> list[DownloadedFile]:
    """Download a job's files under a bar of bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        tasks = {}

        def tell(artifact: Artifact, num_bytes: int) -> None:
            if artifact.id not in tasks:
                tasks[artifact.id] = bar.add_task(escape(artifact.path), total=artifact.size_bytes)
            bar.update(tasks[artifact.id], completed=num_bytes)

        return client.download(job_id, folder, on_progress=tell)


def _how(one: DownloadedFile) -> str:
    return f"resumed at {format_bytes(one.resumed_at_bytes)}" if one.how == "resumed" else one.how


def _fetched_json(one: DownloadedFile) -> dict[str, object]:
    return {
        "path": str(one.path),
        "how": one.how,
        "size_bytes": one.size_bytes,
        "resumed_at_bytes": one.resumed_at_bytes,
        "sha256": one.sha256,
    }

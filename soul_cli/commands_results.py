"""`soul report | download`: the results of a finished job."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from soul_cli.client import SoulClient
from soul_cli.download import DownloadedFile
from soul_cli.errors import BadInput
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, error_console, print_json, print_table
from soul_cli.report_view import print_report
from soul_cli.resources import Artifact
from soul_cli.terminal import escape
from soul_core.formatting import format_bytes


def show_report(
    job: JobArgument,
    html: Annotated[bool, typer.Option("--html", help="The report as one offline page.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="The same page as PDF; needs -o.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it to this file.", show_default=False)
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the report of a finished job.

    `--html -o report.html` writes it as a page, `--pdf -o report.pdf` for print; `--json` prints its data.
    """
    if html + pdf + as_json > 1:
        raise BadInput("give only one of --html, --pdf and --json")
    if pdf and out is None:
        raise BadInput("a PDF cannot be printed on a terminal: give a file, --pdf -o report.pdf")
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
        report = client.get_report(job)
    if out is not None:
        out.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
        error_console.print(f"Report written to {out}")
    elif as_json:
        print_json(report)
    else:
        print_report(report, console)


def download(
    job: JobArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.", show_default="the job's id"),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download a job's files and check every sha256.

    Files that are already complete are kept, and partial ones resume.
    """
    folder = out or Path(job)
    with connect(url, key, as_json=as_json) as client:
        files = download_with_bar(client, job, folder, quiet=as_json)
    if as_json:
        print_json({"folder": str(folder.resolve()), "files": [_make_file_json(file) for file in files]})
        return
    rows = []
    for file in files:
        how = f"resumed at {format_bytes(file.resumed_at_bytes)}" if file.how == "resumed" else file.how
        rows.append((file.path.relative_to(folder), format_bytes(file.size_bytes), how, f"{file.sha256[:16]}… ok"))
    print_table(["file", "size", "", "sha256"], rows)
    console.print(f"{len(files)} files in {folder.resolve()}, every sha256 as in the manifest", soft_wrap=True)


def download_with_bar(client: SoulClient, job_id: str, folder: Path, *, quiet: bool = False) -> list[DownloadedFile]:
    """Download a job's files and show a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        tasks = {}

        def update_bar(artifact: Artifact, num_bytes: int) -> None:
            if artifact.id not in tasks:
                tasks[artifact.id] = bar.add_task(escape(artifact.path), total=artifact.size_bytes)
            bar.update(tasks[artifact.id], completed=num_bytes)

        return client.download(job_id, folder, on_progress=update_bar)


def _make_file_json(file: DownloadedFile) -> dict[str, object]:
    return {
        "path": str(file.path),
        "how": file.how,
        "size_bytes": file.size_bytes,
        "resumed_at_bytes": file.resumed_at_bytes,
        "sha256": file.sha256,
    }

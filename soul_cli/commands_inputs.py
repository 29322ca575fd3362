"""`soul models`, `soul datasets`, `soul methods`: what a job is made of."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from soul_cli.options import JsonOption, KeyOption, SoulGroup, UrlOption, connect
from soul_cli.output import console, error_console, print_fields, print_json, print_table
from soul_cli.resources import Dataset, Model
from soul_cli.submission import list_conflict_warnings, list_dataset_warnings, parse_model_source, parse_sets
from soul_core.formatting import format_bytes

models = typer.Typer(cls=SoulGroup, no_args_is_help=True, help="Models: add, list, show, delete.")
datasets = typer.Typer(cls=SoulGroup, no_args_is_help=True, help="Data sets: add, list, show, delete.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id, mdl_...", show_default=False)]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="The data set's id, ds_...", show_default=False)
]


@models.command("add")
def add_model(
    model: Annotated[
        str,
        typer.Argument(help="A folder, a GGUF file, a hub id (owner/name), or the id of a job whose output it is."),
    ],
    name: Annotated[str | None, typer.Option(help="A name for lists.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub models: branch, tag or commit; it is pinned.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a model. Folders and GGUF files are read where they lie, by a server on this machine."""
    with connect(url, key, as_json=as_json) as client:
        source, location = parse_model_source(model)
        _show_model(client.add_model(source, location, name=name, revision=revision), as_json=as_json)


@models.command("list")
def list_models(
    limit: Annotated[int, typer.Option(min=1, help="Most models to list.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List models, newest first."""
    with connect(url, key, as_json=as_json) as client:
        found = list(client.list_models(limit=limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (m.id, m.name, m.source, m.facts.get("architecture"), m.facts.get("num_parameters"), m.created_at)
        for m in found
    ]
    print_table(["id", "name", "source", "architecture", "parameters", "created"], rows)


@models.command("show")
def show_model(model: ModelArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show one model."""
    with connect(url, key, as_json=as_json) as client:
        _show_model(client.get_model(model), as_json=as_json)


@models.command("delete")
def delete_model(
    model: ModelArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Delete a model's registration."""
    with connect(url, key, as_json=as_json) as client:
        client.delete_model(model)
    if as_json:
        print_json({"id": model, "deleted": True})
    else:
        console.print(f"{model} deleted")


@datasets.command("add")
def add_dataset(
    file: Annotated[Path, typer.Argument(help="JSON, CSV, Parquet or plain text; also .gz and .zst.")],
    *,
    name: Annotated[str | None, typer.Option(help="A name for lists; the file's name otherwise.")] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv, parquet or text; found by name and content otherwise.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN",
            help="Columns with other names: --column question=Frage. Two columns make one prompt, a blank line "
            "between them: --column prompt=instruction+input",
        ),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean/--no-clean",
            help="Take white space and end-of-turn marks of a model off the ends of prompts and answers.",
        ),
    ] = True,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Rewrite texts in Unicode normal form C, with plain spaces.")
    ] = False,
    compare_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATASET",
            help="A forget set, ds_...: rows of this file that state its facts are reported. Repeatable.",
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a data set. A file with bad rows ends with exit code 2 and every bad row by its number.

    What is usable and odd, and what was cleaned, is printed on stderr with row numbers.
    """
    mapping = parse_sets(column or (), option="--column")
    with connect(url, key, as_json=as_json) as client:
        dataset = client.add_dataset(
            file,
            name=name,
            file_format=file_format,
            mapping=mapping,
            clean=clean,
            normalize=normalize,
            compare_with=compare_with or (),
        )
        warnings = [] if as_json else list_dataset_warnings(client, dataset.id)
        warnings += (
            []
            if as_json
            else list_conflict_warnings(client, dataset.id, {other: other for other in compare_with or ()})
        )
    _show_dataset(dataset, as_json=as_json)
    for line in warnings:
        error_console.print(escape(line), soft_wrap=True)


@datasets.command("list")
def list_datasets(
    limit: Annotated[int, typer.Option(min=1, help="Most data sets to list.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List data sets, newest first."""
    with connect(url, key, as_json=as_json) as client:
        found = list(client.list_datasets(limit=limit))
    if as_json:
        print_json(found)
        return
    rows = [(d.id, d.name, d.status, d.format, d.num_rows, _format_size(d), d.created_at) for d in found]
    print_table(["id", "name", "status", "format", "rows", "size", "created"], rows)


@datasets.command("show")
def show_dataset(
    dataset: DatasetArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show one data set."""
    with connect(url, key, as_json=as_json) as client:
        _show_dataset(client.get_dataset(dataset), as_json=as_json)


@datasets.command("delete")
def delete_dataset(
    dataset: DatasetArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Delete a data set and its rows."""
    with connect(url, key, as_json=as_json) as client:
        receipt = client.delete_dataset(dataset)
    if as_json:
        print_json(receipt or {"id": dataset, "deleted": True})
    else:
        console.print(f"{dataset} deleted")


def list_methods(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the methods: forget and retain terms, optimizers, attacks, metrics, ready tasks. `--json` has their schemas
    and defaults.
    """
    with connect(url, key, as_json=as_json) as client:
        found = client.list_methods()
    if as_json:
        print_json(found)
        return
    for family, entries in found.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            continue
        rows = [(e.get("kind") or e.get("name"), _told(e)) for e in entries]
        print_table([family.replace("_", " "), ""], rows)
        if family == "tasks":
            console.print("Their data sets and ready specs as files: python -m soul_core.tasks NAME (--help says more)")
        console.print()


def _told(entry: dict[str, Any]) -> str:
    """Return a method's title, and the variants of a task."""
    variants = ", ".join(entry.get("variants") or ())
    return f"{entry.get('title') or entry.get('description')}" + (f" ({variants})" if variants else "")


def _show_model(model: Model, *, as_json: bool) -> None:
    if as_json:
        print_json(model)
        return
    print_fields(
        [
            ("model", model.id),
            ("name", model.name),
            ("source", model.source),
            ("location", model.location),
            ("revision", model.revision),
            ("digest", model.digest),
            *((name.replace("_", " "), value) for name, value in model.facts.items()),
            ("created", model.created_at),
        ]
    )


def _show_dataset(dataset: Dataset, *, as_json: bool) -> None:
    if as_json:
        print_json(dataset)
        return
    print_fields(
        [
            ("data set", dataset.id),
            ("name", dataset.name),
            ("status", dataset.status),
            ("format", dataset.format),
            ("rows", dataset.num_rows),
            ("size", _format_size(dataset)),
            ("sha256", dataset.sha256),
            ("created", dataset.created_at),
        ]
    )


def _format_size(dataset: Dataset) -> str | None:
    return None if dataset.size_bytes is None else format_bytes(dataset.size_bytes)

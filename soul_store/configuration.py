"""`python -m soul_store.configuration` prints docs/configuration.md; `--check FILE` checks that a copy is current.

The table of settings is made of the fields of `soul_store.settings`.
"""

import sys
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from soul_core.generated_file import print_or_check
from soul_store.settings import FILE_SUFFIX, PREFIX, Settings

PAGE = """\
# Configuration

This page is generated from `soul_store/settings.py`: `make openapi` writes it, `make docs` checks it.

The environment variables of the service. `soul serve` sets those that are needed for one machine; in a fleet
(`docker-compose.yml`, the Helm chart) they are set in the environment of every process of the service. With
`SOUL_DATABASE_URL` or `SOUL_REDIS_URL` set, `soul serve` uses those servers instead of its embedded ones.

**Secrets as files**: for every variable of this table, `<NAME>{suffix}` may name a file that contains the value, such
as `SOUL_DATABASE_PASSWORD{suffix}=/run/secrets/password`. The variable itself wins.

| variable | what | default |
|---|---|---|
{rows}

Checkpoints of a run in progress are in the scratch folder; put it on a shared volume if another machine should resume a
stalled job ([decision 3](decisions/0003-checkpoints-stay-on-the-worker.md)). As root, the embedded servers run as an
unprivileged account that exists (`postgres`, `nobody` or `daemon`), and listen only on Unix sockets.

## Of libraries

| variable | what |
|---|---|
{library_rows}

## Of the client and of `soul serve`

| variable | what | default |
|---|---|---|
| `SOUL_URL` | The server that `soul` talks to. | the server that `soul serve` runs here |
| `SOUL_API_KEY` | The API key. | the key of the local server, only for the local server |
| `SOUL_DATA` | Data folder of `soul serve`; `soul` reads `connection.json` in it. | `./soul-data` |
| `SOUL_CACHE` | Folder for downloaded and converted models. | `~/.cache/soul` |
"""

_OTEL_PAGE = "https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/"
#: Variables that libraries read, and what they mean here.
_LIBRARY_VARIABLES = {
    "`OTEL_EXPORTER_OTLP_ENDPOINT`": "Where traces are sent, over HTTP, such as `http://collector:4318`. Needs the "
    "extra `telemetry`; without the variable nothing is imported. "
    f"The [other variables]({_OTEL_PAGE}) of OpenTelemetry hold as well.",
    "`HF_TOKEN`, `HF_TOKEN_PATH`": "Token of the Hugging Face hub, or the file that contains it: private and gated "
    "models.",
    "`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`": "Cache folder, mirror, and no network at all.",
    "`CUDA_VISIBLE_DEVICES`": "The GPU that a worker may use.",
    "`OMP_NUM_THREADS`": "Threads of an engine on a CPU.",
}


def render_page() -> str:
    """Return the page as it is committed."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {field.description} | {_format_default(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    library_rows = [f"| {names} | {text} |" for names, text in _LIBRARY_VARIABLES.items()]
    return PAGE.format(suffix=FILE_SUFFIX, rows="\n".join(rows), library_rows="\n".join(library_rows))


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default: Any = field.default
    text = default.get_secret_value() if isinstance(default, SecretStr) else str(default)
    return f"`{text}`" if text else "empty"


def main(arguments: list[str] | None = None) -> int:
    """Print or check the file; return the exit code."""
    return print_or_check("soul_store.configuration", __doc__, render_page, arguments)


if __name__ == "__main__":
    sys.exit(main())

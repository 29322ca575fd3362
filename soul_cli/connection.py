"""Which server `soul` talks to, and as whom: options, then the environment, then the server running on this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soul_cli.errors import BadInput

#: Written by `soul serve` into its data folder, readable by its owner only: {"url": ..., "api_key": ...}.
CONNECTION_FILE = "connection.json"
DEFAULT_DATA = Path("soul-data")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the service is and the key to it. `source` says where this was found, for error messages."""

    url: str
    key: str | None
    source: str


def find_connection(
    *, url: str | None = None, key: str | None = None, data: Path | None = None, env: Mapping[str, str] = os.environ
) -> Connection:
    """Find the server. A key belongs to its server: the local server's key is never sent to a URL named otherwise."""
    named_url = url or env.get("SOUL_URL")
    named_key = key or env.get("SOUL_API_KEY")
    if named_url:
        if not named_url.startswith(("http://", "https://")):
            raise BadInput(f"the server's URL must start with http:// or https://, not {named_url!r}")
        local = _read(get_data_folder(data, env))
        same = local is not None and local.url.rstrip("/") == named_url.rstrip("/")
        return Connection(named_url, named_key or (local.key if local and same else None), "option or SOUL_URL")
    folder = get_data_folder(data, env)
    local = _read(folder)
    if local is None:
        raise BadInput(
            f"no server named and none has run here ({folder / CONNECTION_FILE} is not there). "
            "Start one with `soul serve`, or give --url and --key (SOUL_URL, SOUL_API_KEY)."
        )
    return Connection(local.url, named_key or local.key, local.source)


def get_data_folder(data: Path | None = None, env: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder of the local server: an option, SOUL_DATA, or ./soul-data."""
    return data or Path(env.get("SOUL_DATA") or DEFAULT_DATA)


def _read(folder: Path) -> Connection | None:
    path = folder / CONNECTION_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Connection(found["url"], found.get("api_key"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}): start `soul serve` again, or give --url and --key") from error

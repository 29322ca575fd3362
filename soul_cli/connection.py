"""Finds the server and the API key: options, then the environment, then the server that runs on this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soul_cli.errors import BadInput

#: Written by `soul serve` into its data folder, readable only by its owner: {"url": ..., "api_key": ...}.
CONNECTION_FILE = "connection.json"
DEFAULT_DATA = Path("soul-data")


@dataclass(frozen=True, slots=True)
class Connection:
    """The URL of a service and the API key for it."""

    url: str
    key: str | None


def find_connection(
    *, url: str | None = None, key: str | None = None, data: Path | None = None, env: Mapping[str, str] = os.environ
) -> Connection:
    """Find the server and its key. The local server's key is never sent to another URL.

    Args:
        url, key: given as options.
        data: data folder of the local server; default: see `get_data_folder`.
        env: the environment, with SOUL_URL, SOUL_API_KEY and SOUL_DATA.

    Raises:
        BadInput: no server is named and none has run here, or the URL or the connection file is not valid.
    """
    named_url = url or env.get("SOUL_URL")
    named_key = key or env.get("SOUL_API_KEY")
    if named_url:
        if not named_url.startswith(("http://", "https://")):
            raise BadInput(f"the server's URL must start with http:// or https://, not {named_url!r}")
        local = _read_connection(get_data_folder(data, env))
        is_local = local is not None and local.url.rstrip("/") == named_url.rstrip("/")
        return Connection(named_url, named_key or (local.key if local and is_local else None))
    folder = get_data_folder(data, env)
    local = _read_connection(folder)
    if local is None:
        raise BadInput(
            f"no server is named, and none has run here ({folder / CONNECTION_FILE} does not exist). "
            "Start one with `soul serve`, or give --url and --key (SOUL_URL, SOUL_API_KEY)."
        )
    return Connection(local.url, named_key or local.key)


def get_data_folder(data: Path | None = None, env: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder of the local server: `data`, else SOUL_DATA, else ./soul-data."""
    return data or Path(env.get("SOUL_DATA") or DEFAULT_DATA)


def _read_connection(folder: Path) -> Connection | None:
    path = folder / CONNECTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Connection(content["url"], content.get("api_key"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}): start `soul serve` again, or give --url and --key") from error

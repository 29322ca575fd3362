"""JSON objects of a model's folder. Torch-free."""

import json
from pathlib import Path
from typing import Any

from soul_core.errors import BadModel

_MAX_JSON_BYTES = 100 << 20


def read_json_object(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the file's object, or None if there is no such file. Raises BadModel when it holds anything else."""
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise BadModel(f"{name} is larger than {_MAX_JSON_BYTES >> 20} MiB; give the model's own file")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{name} is not JSON; download or save it again") from error
    if not isinstance(value, dict):
        raise BadModel(f"{name} is not a JSON object; download or save it again")
    return value

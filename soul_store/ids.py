"""Ids: a prefix that names the kind of resource, and a ULID, which sorts by time."""

from typing import Literal

from ulid import ULID

Prefix = Literal["prj", "key", "ds", "mdl", "job", "art", "req"]


def new_id(prefix: Prefix) -> str:
    """Return a new id such as `job_01k9…`; later ids sort after earlier ones."""
    return f"{prefix}_{str(ULID()).lower()}"

"""What a file's reader yields: records, and rows that cannot be read. Torch-free."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why one row cannot be used. `detail` never holds the row's content."""

    number: int
    column: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line or record of a file, before anybody asked what its columns mean."""

    number: int
    values: dict[str, Any]
    duplicate_names: tuple[str, ...] = ()  # names that the record gives more than once; the last value counts

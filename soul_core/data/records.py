"""What the readers of files yield: records, and problems of rows that cannot be read. Torch-free."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why one row cannot be used. `detail` never holds the row's content."""

    number: int
    column: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a file, before its columns are interpreted."""

    number: int
    values: dict[str, Any]
    duplicate_names: tuple[str, ...] = ()  # names that the record has more than once; the last value is used

"""Rows of a data set: read from any accepted file, summarized, and written as the JSON lines that the engine reads.

Torch-free: API and engine read data with the same code. `formats` turns files into records, `columns` records into
rows, `reading` does both; `encoding`, which needs transformers, turns rows into tokens.
"""

from collections.abc import Mapping

from soul_core.data.canonical import compute_canonical_sha256, write_canonical
from soul_core.data.columns import Row
from soul_core.data.compression import MAX_EXPANDED_BYTES
from soul_core.data.findings import RowWarning
from soul_core.data.formats import FORMATS, Format, guess_format
from soul_core.data.messages import Message
from soul_core.data.reading import ReadResult, Validation, read_rows, validate_rows
from soul_core.data.records import RowProblem

__all__ = [
    "FORMATS",
    "MAX_EXPANDED_BYTES",
    "Format",
    "Message",
    "ReadResult",
    "Row",
    "RowProblem",
    "RowWarning",
    "RowsBySet",
    "Validation",
    "compute_canonical_sha256",
    "guess_format",
    "read_rows",
    "validate_rows",
    "write_canonical",
]

#: Name of a data set -> its rows.
RowsBySet = Mapping[str, tuple[Row, ...]]

"""The bodies of data sets."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import Name, ResponseModel
from soul_core.data import Format
from soul_core.spec.terms import SpecModel


class DatasetCreate(SpecModel):
    """A data set whose content follows by PUT."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "customer 4711", "filename": "forget.jsonl"}]})

    name: Name
    filename: Name | None = Field(
        None, description="The file's own name; its extension gives the format if `format` is not set."
    )
    format: Format | None = Field(None, description="Default: from the file name, otherwise from the content.")
    mapping: dict[str, str] = Field(
        default_factory=dict,
        description="Accepted column (prompt, completion, question, answer, messages, text, system) -> the file's "
        "column. `first+second` joins two columns with a blank line; nothing is joined where the second is empty.",
        examples=[{"prompt": "instruction+input", "completion": "output"}],
    )
    clean: bool = Field(
        True,
        description="Remove white space and a model's end-of-turn marks from the ends of prompts and answers, and "
        "write line ends as LF. The validation's `warnings` name the rows.",
    )
    normalize: bool = Field(
        False,
        description="Rewrite all texts in Unicode normal form C with plain spaces and without zero-width marks. "
        "Otherwise the model gets them unchanged, and `warnings` name the rows in another form.",
    )


class DatasetOut(ResponseModel):
    """A data set."""

    id: str
    name: str
    status: Literal["awaiting_content", "ready", "invalid"]
    format: str | None
    mapping: dict[str, str]
    clean: bool = Field(True, description="Prompts and answers were cleaned.")
    normalize: bool = Field(False, description="Texts were rewritten in Unicode normal form C.")
    num_rows: int | None
    size_bytes: int | None = Field(description="Of the upload.")
    sha256: str | None = Field(description="Of the upload's bytes.")
    content_sha256: str | None = Field(
        description="Of the rows: sets with equal rows have equal digests, in any format."
    )
    created_at: datetime


class BadRow(ResponseModel):
    """One problem of one row."""

    row: int = Field(description="1-based line or record of the file.")
    column: str | None
    detail: str


class RowWarningOut(ResponseModel):
    """A warning about usable rows: what was cleaned, what is unusual, which columns are not read."""

    kind: str = Field(
        description="white_space, line_ends, end_mark, normal_form, normalized, unseen_marks, null_text, chat_marks, "
        "several_answers, unread_columns, doubled_names."
    )
    detail: str = Field(description="The finding and what was done. Names columns, never quotes a row.")
    rows: list[int] = Field(description="Row numbers, the first 1,000; empty if it concerns the file.")
    num_rows: int = Field(description="Number of rows that it concerns.")


class ConflictingRow(ResponseModel):
    """A row of this data set and one of another that state, or ask for, the same fact."""

    row: int
    other_row: int
    layer: Literal["question", "fact", "near_duplicate"] = Field(
        description="How it was found. question: the same last user turn. fact: the same keywords of answer and "
        "subject. near_duplicate: nearly the same letters."
    )


class DatasetConflicts(ResponseModel):
    """The rows of an uploaded data set that conflict with another data set that the upload names."""

    dataset_id: str
    num_rows: int | None = Field(None, description="Number of rows of this data set; null: the two were not compared.")
    pairs: list[ConflictingRow] = Field(default_factory=list, description="The first 1,000 pairs of rows.")
    not_compared: str | None = Field(None, description="Why the two were not compared. A job compares its sets anyway.")


class ValidationOut(ResponseModel):
    """The validation of an upload."""

    usable: bool
    format: str | None = None
    num_rows: int = 0
    columns: list[str] = Field(default_factory=list)
    used_columns: list[str] = Field(default_factory=list)
    problems: list[BadRow] = Field(default_factory=list, description="Every bad row.")
    duplicates: list[list[int]] = Field(default_factory=list, description="Groups of equal rows.")
    warnings: list[RowWarningOut] = Field(
        default_factory=list, description="Findings about usable rows: read them before a job."
    )
    conflicts: list[DatasetConflicts] = Field(
        default_factory=list, description="For each data set of the upload's `compare_with`: rows that state its facts."
    )
    error: str | None = Field(None, description="Why the file could not be read.")


class PreviewOut(ResponseModel):
    """The first rows as the engine reads them."""

    rows: list[dict[str, Any]]


class DeletionReceipt(ResponseModel):
    """Proof that a data set's content was deleted."""

    id: str
    deleted_at: datetime
    sha256: str | None
    num_rows: int | None

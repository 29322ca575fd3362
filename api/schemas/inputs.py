"""The bodies of what a job starts from: data sets and models."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.jobs import Name, ResponseModel
from soul_core.data import Format
from soul_core.spec.terms import SpecModel

# --- data sets ---


class DatasetCreate(SpecModel):
    """A data set whose content follows by PUT."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "customer 4711", "filename": "forget.jsonl"}]})

    name: Name
    filename: Name | None = Field(None, description="The file's own name: tells the format where `format` does not.")
    format: Format | None = Field(None, description="Else told by the file name, else by the content.")
    mapping: dict[str, str] = Field(
        default_factory=dict,
        description="Accepted column (prompt, completion, question, answer, messages, text, system) -> the file's "
        "column. `one+other` joins two columns with a blank line; where the second is empty, nothing is joined.",
        examples=[{"prompt": "instruction+input", "completion": "output"}],
    )
    clean: bool = Field(
        True,
        description="Take white space and end-of-turn marks of a model off the ends of prompts and answers, and write "
        "line ends as LF. The validation's `warnings` name the rows.",
    )
    normalize: bool = Field(
        False,
        description="Rewrite all texts in Unicode normal form C with plain spaces and without zero-width marks. Else "
        "they go to the model as they are, and `warnings` name the rows in another form.",
    )


class DatasetOut(ResponseModel):
    """A data set."""

    id: str
    name: str
    status: Literal["awaiting_content", "ready", "invalid"]
    format: str | None
    mapping: dict[str, str]
    clean: bool = Field(True, description="Prompts and answers were cleaned as they were read.")
    normalize: bool = Field(False, description="Texts were rewritten in Unicode normal form C.")
    num_rows: int | None
    size_bytes: int | None = Field(description="Of the upload.")
    sha256: str | None = Field(description="Of the upload's bytes.")
    content_sha256: str | None = Field(description="Of the rows, whatever the format: equal sets have equal ones.")
    created_at: datetime


class BadRow(ResponseModel):
    """One fault of one row."""

    row: int = Field(description="1-based line or record of the file.")
    column: str | None
    detail: str


class RowWarningOut(ResponseModel):
    """Something about rows that can be used: what was cleaned, what is odd, what nothing reads."""

    kind: str = Field(
        description="white_space, line_ends, end_mark, normal_form, normalized, unseen_marks, null_text, chat_marks, "
        "several_answers, unread_columns, doubled_names."
    )
    detail: str = Field(description="What it is and what was done. Names columns, never quotes a row.")
    rows: list[int] = Field(description="Row numbers, the first 1,000; empty where it is about the file.")
    num_rows: int = Field(description="How many rows it is about.")


class ConflictingRow(ResponseModel):
    """A row of this data set and one of another that say, or ask for, the same."""

    row: int
    other_row: int
    layer: Literal["question", "fact", "near_duplicate"] = Field(
        description="What found it. question: the same last user turn. fact: the keywords of answer and subject. "
        "near_duplicate: nearly the same letters."
    )


class DatasetConflicts(ResponseModel):
    """What an uploaded data set has in common with another one that the upload named."""

    dataset_id: str
    num_rows: int | None = Field(None, description="Rows of this data set; none: the two were not compared.")
    pairs: list[ConflictingRow] = Field(default_factory=list, description="The first 1,000 pairs of rows.")
    not_compared: str | None = Field(None, description="Why the two were not compared. A job compares its sets anyway.")


class ValidationOut(ResponseModel):
    """What was found in an upload."""

    usable: bool
    format: str | None = None
    num_rows: int = 0
    columns: list[str] = Field(default_factory=list)
    used_columns: list[str] = Field(default_factory=list)
    problems: list[BadRow] = Field(default_factory=list, description="Every bad row.")
    duplicates: list[list[int]] = Field(default_factory=list, description="Groups of rows that say the same.")
    warnings: list[RowWarningOut] = Field(
        default_factory=list, description="What is usable and may still surprise: read them before a job."
    )
    conflicts: list[DatasetConflicts] = Field(
        default_factory=list, description="For each data set of the upload's `compare_with`: rows that state its facts."
    )
    error: str | None = Field(None, description="Why the file as a whole could not be read.")


class PreviewOut(ResponseModel):
    """The first rows as the engine reads them."""

    rows: list[dict[str, Any]]


class DeletionReceipt(ResponseModel):
    """Proof that a data set's content was deleted."""

    id: str
    deleted_at: datetime
    sha256: str | None
    num_rows: int | None


# --- models ---


class HubModel(SpecModel):
    """A model of the hub, pinned to the commit its revision stands at now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"source": "hub", "location": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"}]
        }
    )

    source: Literal["hub"]
    location: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    revision: str | None = Field(None, description="Branch, tag or commit; default: the main branch.")
    name: Name | None = None


class LocalModel(SpecModel):
    """A folder with config.json, tokenizer and safetensors, on the server's own disk."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "local", "location": "/models/support-bot", "name": "support bot"}]}
    )

    source: Literal["local"]
    location: str = Field(
        description="Absolute path below one of SOUL_MODEL_ROOTS. What lies there now is registered: a job on files "
        "that changed since fails and names both digests."
    )
    name: Name | None = None


class GgufModel(SpecModel):
    """A GGUF file on the server's own disk; dequantized when it is used.

    Architectures that are read: llama, qwen2, qwen3, gemma2, gemma3, phi3, stablelm, starcoder2, falcon, gpt2.
    Keys that the file leaves out mean what they mean to llama.cpp.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "gguf", "location": "/models/SmolLM2-135M-Instruct.Q4_1.gguf"}]}
    )

    source: Literal["gguf"]
    location: str = Field(
        description="Absolute path below one of SOUL_MODEL_ROOTS. What lies there now is registered: a job on files "
        "that changed since fails and names both digests."
    )
    name: Name | None = None


class JobModel(SpecModel):
    """The checkpoint an earlier job made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"source": "job", "location": "job_01k9"}]})

    source: Literal["job"]
    location: str = Field(description="The job's id.", examples=["job_01k9"])
    name: Name | None = None


ModelCreate = Annotated[HubModel | LocalModel | GgufModel | JobModel, Field(discriminator="source")]


class ModelOut(ResponseModel):
    """A registered model."""

    id: str
    name: str
    source: Literal["hub", "local", "gguf", "job"]
    location: str
    revision: str | None
    digest: str | None = Field(
        description="sha256 over the names and hashes of its files; a hub model has its commit. Each job checks it."
    )
    facts: dict[str, Any] = Field(description="architecture, num_parameters, context_tokens, chat_template, ...")
    parent_job_id: str | None
    created_at: datetime

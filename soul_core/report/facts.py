"""The facts of a report: which data and models were used, how the run went, what it wrote. Torch-free."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from soul_core.report.measurements import ReportModel

#: Where the rows of a data set come from.
DatasetOrigin = Literal["given", "held_out", "shipped", "sampled"]


class DatasetFacts(ReportModel):
    """One data set as the run used it."""

    name: str
    sha256: str = Field(description="Digest of all rows that were given.")
    num_rows: int = Field(description="Rows that the run used.")
    dropped_rows: tuple[int, ...] = Field(
        (), description="Numbers of the rows that the run left out because they state facts of a forget set."
    )
    origin: DatasetOrigin = Field(
        "given",
        description="given: by the user. held_out: rows of the retain set that the run never trained on. shipped: a "
        "sample of text that SOUL ships. sampled: written by the base model.",
    )
    selection: str | None = Field(
        None, description="How the run selected, or made, these rows; absent: they were given."
    )
    num_tokens: int = Field(description="Tokens of prompts and answers.")
    num_answer_tokens: int = Field(description="Tokens of answers.")


#: The parts of a generated retain set.
RetainPart = Literal["neighbors", "general", "free"]
#: Why a generated row is not used.
RefusalReason = Literal["forget_words", "forget_fact", "duplicate", "repetition", "empty", "unfinished", "unusable"]


class GeneratedRetainFacts(ReportModel):
    """The retain set that the base model made because the job had none. It holds counts, never texts."""

    sha256: str = Field(description="Digest of its rows.")
    num_rows: dict[RetainPart, int] = Field(
        description="Part -> rows. neighbors: in the form of the forget rows, about other subjects. general: answers "
        "to general prompts. free: prompts and texts without a given beginning."
    )
    requested_rows: dict[RetainPart, int] = Field(description="Part -> rows that the spec asks for.")
    refused: dict[RefusalReason, int] = Field(
        description="Reason -> generated prompts and rows that were not used. forget_words: a word of a subject or an "
        "answer of the forget set. forget_fact: it states, or asks for, a fact of the forget set. unfinished: a prompt "
        "without an end. unusable: too long for the model, or refused by its chat template."
    )
    seed: int
    temperature: float
    max_new_tokens: int
    seconds: float = Field(description="Seconds of the generation.")


class ModelFacts(ReportModel):
    """The base model as the run used it."""

    source: str = Field(description="Name under which the user knows the model: a hub id, a folder, a registered name.")
    digest: str = Field(description="sha256 over names and hashes of the model's files, or the hub's commit id.")
    architecture: str = Field(description="The model's class in transformers.")
    num_parameters: int
    context_tokens: int = Field(description="Maximum number of tokens of the model's context.")
    chat_template: bool = Field(description="Whether the model has a chat template.")
    batches: Literal["packed", "padded"] = Field(
        "packed",
        description="How examples of a batch go through the model: packed into one sequence without padding, or as "
        "padded rows if the architecture's attention cannot separate packed examples. The numbers are the same.",
    )


class RowMatch(ReportModel):
    """How the rows of a retrained model's log were matched with the rows of this run."""

    by: Literal["content", "texts", "position"] = Field(
        description="content: keyed digests of the rows. texts: questions and answers in the log. position: row "
        "numbers, if the log has neither; then nothing shows that they are the same rows."
    )
    num_common: int = Field(description="Rows measured in this run that the log has too: only these are compared.")
    num_rows: int = Field(description="Rows of the set that this run measured.")
    num_in_log: int = Field(description="Rows of the set in the log.")
    num_other_answers: int = Field(
        0, description="Common rows with other paraphrased or wrong answers: metrics of those answers leave them out."
    )


class RetrainedModelFacts(ReportModel):
    """The model retrained without the forget set. It shows what complete forgetting would look like."""

    source: str = Field(description="Name of the model, or of the log.")
    digest: str = Field(description="Digest of the model's files, or of the log.")
    from_log: bool = Field(description="Whether its numbers were read from a log instead of measured.")
    matches: dict[str, RowMatch] = Field(
        {}, description="Data set -> how the log's rows were matched; empty without a log."
    )


class RunFacts(ReportModel):
    """How the run went."""

    started_at: datetime
    finished_at: datetime
    seconds: dict[str, float] = Field(description="Phase -> seconds, summed over all attempts.")
    steps: int = Field(description="Optimizer steps of the result.")
    train_tokens: int = Field(description="Tokens in forward passes of the training, without padding.")
    flops: float = Field(description="Estimate: 6 x parameters x training tokens, curvature included.")
    flops_of_training: float | None = Field(
        None, description="The same estimate for the training of the base model, if its number of tokens is known."
    )
    peak_memory_bytes: int
    device: str = Field(description="Name of the GPU, or cpu.")
    dtype: str = Field(description="Type of computations.")
    environment: dict[str, str] = Field(
        {}, description="Threads, kernels and environment variables that can change the last bits of a number."
    )
    resumed_at_steps: tuple[int, ...] = Field((), description="Steps from which the training resumed.")
    curves: dict[str, tuple[float | None, ...]] = Field(description="Curve -> one value per step.")


class GgufFacts(ReportModel):
    """The GGUF file, as it was read back."""

    path: str
    kind: str = Field(description="f16 or q8_0.")
    max_error: float = Field(description="Largest difference of a weight from the checkpoint's.")
    relative_error: float = Field(description="Norm of that difference over the norm of the weights.")
    notes: tuple[str, ...] = Field((), description="Where programs that read the file may differ.")


class ExportFacts(ReportModel):
    """What the run wrote of the judged model. The model's numbers in this report are those of the written weights."""

    dtype: str = Field(description="Type of the weights in the files: float32, bfloat16, float16, or mixed.")
    is_adapter: bool = Field(
        False, description="Whether only adapters were written. They are not rounded, and they need their base model."
    )
    changed_share_kept: float | None = Field(
        None,
        description="Of the weights that training changed, the fraction that still differs from the base model's after "
        "rounding. Absent: no weight changed, or the base model's files could not be compared.",
    )
    rounding_error: float | None = Field(
        None, description="Norm of the rounding error over the norm of what training changed, over changed weights."
    )
    gguf: GgufFacts | None = None

"""The retain set that a run makes from the base model if the job has none. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from soul_core.spec.terms import SpecModel

#: Prompts in `soul_core/generated_retain/general_prompts.txt`.
NUM_GENERAL_PROMPTS = 120


class GenerateRetain(SpecModel):
    """Make the retain set from the base model: what it says by itself, without the words of the forget set."""

    kind: Literal["auto"] = "auto"
    neighbors: int = Field(
        64,
        ge=0,
        le=10_000,
        description="Rows about other subjects in the form of the forget rows: the model completes the beginning of a "
        "forget prompt, or of a text, and answers. Ours.",
    )
    general: int = Field(
        56,
        ge=0,
        le=NUM_GENERAL_PROMPTS,
        description="Rows with the model's answers to general prompts that SOUL ships, drawn by the seed. Ours.",
    )
    free: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Rows that the model writes without a given beginning: with a chat template a prompt and its "
        "answer, else a text. A fine-tuned model repeats what it was trained on. arXiv:2406.08464; the number is ours.",
    )
    temperature: float = Field(
        0.8, gt=0, le=5, description="Sampling temperature of prompts and texts; answers are greedy. Ours."
    )
    max_new_tokens: int = Field(48, ge=4, le=4096, description="Longest answer or text, in tokens. Ours.")

    @property
    def num_rows(self) -> int:
        """The number of rows that are wanted; fewer pass the screening if the model repeats itself."""
        return self.neighbors + self.general + self.free


class NoGeneratedRetain(SpecModel):
    """Make no retain set: a job with a retain term and without a retain set is refused."""

    kind: Literal["off"] = "off"


AutoRetain = Annotated[GenerateRetain | NoGeneratedRetain, Field(discriminator="kind")]

"""How the data sets of a run are read, and the training loop. Torch-free."""

from typing import Literal

from pydantic import Field

from soul_core.spec.generated_retain import AutoRetain, GenerateRetain
from soul_core.spec.terms import SpecModel


class Data(SpecModel):
    """How a run reads its data sets. The service cleans files at upload; the engine reads stored files unchanged."""

    clean: bool = Field(
        True,
        description="Remove white space and a model's end-of-turn marks from the ends of prompts and answers, and "
        "convert line ends to LF. The report lists the rows that changed.",
    )
    normalize: bool = Field(
        False,
        description="Convert all texts to Unicode normal form C, with plain spaces and without zero-width marks, "
        "before the model learns them and is scored on them.",
    )
    auto_retain: AutoRetain = Field(
        GenerateRetain(),
        description="Unlearning with a retain term and without a `retain` data set: the retain set that the run makes "
        "from the base model (auto), or an error (off).",
    )
    paraphrases: int = Field(
        0,
        ge=0,
        le=20,
        description="Maximum number of paraphrases of each forget row that are trained on too: questions and answers "
        "that the base model rewords, and questions from templates. A rewording that loses the fact's keywords is "
        "refused; measured rows stay the originals. Ours.",
    )
    retain_held_out: float = Field(
        0.2,
        ge=0,
        le=0.5,
        description="Unlearning: fraction of the retain rows that is never trained on and measured as the set "
        "`retain_held_out`; 0 for none. At least 2 and at most 100 rows; of fewer than 5 retain rows none is held out. "
        "The seed selects them by their content. A data set of that name replaces them. Ours.",
    )


class Training(SpecModel):
    """The training loop."""

    steps: int = Field(24, ge=1, le=1_000_000, description="Optimizer steps. Ours, for small forget sets.")
    stop_at: float | None = Field(
        0.15,
        gt=0,
        lt=1,
        description="End the training before `steps` when the mean probability of the forget answers has fallen to "
        "this factor of the base model's; none: take all steps. Measured every 2 steps on at "
        "most 32 rows; not used with `after`. Ours.",
    )
    epochs: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="Passes over the forget set (finetune: over the train set); replaces `steps`.",
    )
    forget_batch: int = Field(6, ge=1, le=4096, description="Forget examples per step. Ours.")
    retain_batch: int = Field(6, ge=1, le=4096, description="Retain examples per step. Ours.")
    micro_batch_tokens: int = Field(
        2048,
        ge=16,
        description="Maximum number of tokens in one forward pass; a larger batch is accumulated. The engine halves it "
        "when memory runs out. Ours.",
    )
    max_tokens: int = Field(
        2048,
        ge=8,
        description="Maximum number of tokens of an example, prompt and answer together; the model's context length if "
        "that is shorter. Ours.",
    )
    grad_clip: float = Field(1.0, gt=0, description="Maximum L2 norm of the gradient. Ours, and common practice.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rate after the warm-up."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    checkpoint_every: int = Field(10, ge=1, description="Steps between two checkpoints of the run. Ours.")

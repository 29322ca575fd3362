"""Names of columns: those that make a row, and those that metrics and attacks read beside it. Torch-free."""

#: Accepted column sets, the preferred first. messages + completion is what `rows.write_canonical` writes.
COLUMN_SETS: tuple[tuple[str, ...], ...] = (
    ("messages", "completion"),
    ("messages",),
    ("conversations",),  # ShareGPT's: turns with from and value
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),  # Alpaca's, with input
    ("text",),
)
CANONICAL_COLUMNS = COLUMN_SETS[0]
#: Joined to the shape's first column, after a blank line.
JOINED_COLUMNS: dict[tuple[str, ...], tuple[str, ...]] = {("instruction", "output"): ("input",)}
#: Turned into the first turn, where the shape has a prompt.
SYSTEM = "system"
ACCEPTED_NAMES = frozenset(name for shape in COLUMN_SETS for name in shape)
#: Further columns that something reads: other answers, rewordings, and what a probe was made of.
KNOWN_EXTRA_COLUMNS = frozenset(
    {
        "perturbed_answer",
        "paraphrased_answer",
        "paraphrased_question",
        "paraphrased_prompt",
        "probe",
        "of_row",
    }
)
#: What canonical lines begin with: a file of such lines is read as it is.
CANONICAL_PREFIX = ("messages", "completion", "number")

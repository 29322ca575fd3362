"""Names of columns: those that make a row, and those that metrics and attacks read in addition. Torch-free."""

#: Accepted column sets, the preferred one first. `write_canonical` writes messages and completion.
COLUMN_SETS: tuple[tuple[str, ...], ...] = (
    ("messages", "completion"),
    ("messages",),
    ("conversations",),  # ShareGPT: turns with from and value
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),  # Alpaca, with input
    ("text",),
)
CANONICAL_COLUMNS = COLUMN_SETS[0]
#: Column set -> columns that are joined to its first column, after a blank line.
JOINED_COLUMNS: dict[tuple[str, ...], tuple[str, ...]] = {("instruction", "output"): ("input",)}
#: Becomes the first turn if the column set has a prompt.
SYSTEM = "system"
ACCEPTED_NAMES = frozenset(name for column_set in COLUMN_SETS for name in column_set)
#: Further columns that are read: other answers, rewordings, and the source of a probe.
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
#: Canonical lines begin with these; a file of such lines is read unchanged.
CANONICAL_PREFIX = ("messages", "completion", "number")

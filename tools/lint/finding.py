"""What a check of `tools.lint` reports."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: A line that holds this is not checked: it quotes a text or a name that is fixed elsewhere.
QUOTE_MARK = "lint: quote"


class Finding(NamedTuple):
    """One place to change. `rule` groups findings in a count; `message` states the problem and the remedy."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def without_quotes(findings: Iterable[Finding], text: str) -> Iterator[Finding]:
    """Yield the findings on lines of `text` that carry no quote mark."""
    lines = text.split("\n")
    for finding in findings:
        if QUOTE_MARK not in lines[finding.line - 1]:
            yield finding

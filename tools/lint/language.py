"""Checks sentences in docstrings, comments, strings, pages and configuration, and the subjects of commits.

Standard library only. What is banned is the table of `phrases`; how text is found in a file is here.
"""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from tools.lint.finding import Finding, without_quotes
from tools.lint.phrases import PHRASES

SUFFIXES = frozenset({".py", ".md", ".j2", ".yml", ".yaml", ".toml"})
FILE_NAMES = frozenset({"Makefile", "Dockerfile"})
#: Pages and folders that quote what is banned, or that must never change.
EXCLUDED_FILES = frozenset({"CHANGELOG.md", "docs/glossary.md"})
EXCLUDED_FOLDERS = ("tools/lint/", "tests/tools/lint/", "migrations/versions/")

MAX_SUBJECT = 72
SUBJECT = re.compile(r"[a-z][a-z0-9_ ,/-]*: [a-z].*")

PATTERNS = tuple((phrase, re.compile(phrase.pattern or rf"\b{phrase.words}\b")) for phrase in PHRASES)
#: Whether a paragraph has any of them: one pass in place of a hundred.
_ANY = re.compile(r"(?<!\w)(?:" + "|".join(pattern.pattern for _, pattern in PATTERNS) + ")")

_STRING_START = re.compile(r"[A-Za-z]*(?:'''|\"\"\"|'|\")")
_FIELD = re.compile(r"\{[^{}]*\}")
_NESTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
#: Tokens inside a paragraph: line breaks between parentheses, and the quotes of an f-string (Python 3.12).
_LAYOUT = frozenset(
    {tokenize.NL, getattr(tokenize, "FSTRING_START", tokenize.NL), getattr(tokenize, "FSTRING_END", tokenize.NL)}
)
_FSTRING_TEXT = getattr(tokenize, "FSTRING_MIDDLE", -1)


class Word(NamedTuple):
    """A word of a text and the line it is on."""

    text: str
    line: int


#: What ends a paragraph: code, or an empty line.
BREAK = Word("", 0)


class Paragraph(NamedTuple):
    """A text as one line in lower case, and the line in the file of each of its words."""

    text: str
    lines: tuple[int, ...]

    def line_at(self, offset: int) -> int:
        """Return the line of the word that an offset of the text is in."""
        return self.lines[self.text.count(" ", 0, offset)]


def is_checked(path: str) -> bool:
    """Return whether a file's sentences are checked."""
    if path in EXCLUDED_FILES or path.startswith(EXCLUDED_FOLDERS):
        return False
    return PurePosixPath(path).suffix in SUFFIXES or PurePosixPath(path).name in FILE_NAMES


def check_language(path: str, text: str) -> list[Finding]:
    """Return the banned phrases of a file, in the order of the lines."""
    words = split_python(text) if path.endswith(".py") else split_text(text)
    findings = []
    for paragraph in join_paragraphs(words):
        if not _ANY.search(paragraph.text):
            continue
        for phrase, pattern in PATTERNS:
            for match in pattern.finditer(paragraph.text):
                message = f"'{match.group().strip()}': write {phrase.instead}"
                findings.append(Finding(path, paragraph.line_at(match.start()), phrase.words, message))
    return sorted(without_quotes(findings, text), key=lambda finding: finding.line)


def split_python(source: str) -> Iterator[Word]:
    """Yield the words of strings and comments; adjacent strings and comment lines are one paragraph."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            yield from split_lines(read_string(token.string), token.start[0])
        elif token.type == tokenize.COMMENT:
            yield from split_lines(token.string.lstrip("#:! "), token.start[0])
        elif token.type == _FSTRING_TEXT:
            yield from split_lines(token.string, token.start[0])
        elif token.type not in _LAYOUT:
            yield BREAK


def read_string(literal: str) -> str:
    """Return the text of a string literal; of the fields of an f-string only the strings in them remain."""
    start = _STRING_START.match(literal)
    assert start is not None
    quotes = start.group().lstrip("ABFRUabfru")
    text = literal[start.end() : len(literal) - len(quotes)]
    if "f" in start.group().lower():
        text = _FIELD.sub(
            lambda field: "{" + " ".join("".join(pair) for pair in _NESTED.findall(field.group())) + "}", text
        )
    return re.sub(r"\\[nrt]", " ", text)


def split_text(text: str) -> Iterator[Word]:
    """Yield the words of a page or a configuration file; lines of a comment are one paragraph."""
    return split_lines("\n".join(line.lstrip("# ") for line in text.split("\n")), 1)


def split_lines(text: str, first_line: int) -> Iterator[Word]:
    """Yield the words of each line, and a break for an empty line."""
    for number, line in enumerate(text.split("\n"), first_line):
        words = line.split()
        yield from (Word(word, number) for word in words) if words else (BREAK,)


def join_paragraphs(words: Iterable[Word]) -> Iterator[Paragraph]:
    """Yield the words between two breaks as one paragraph."""
    for is_break, group in groupby(words, key=lambda word: word is BREAK):
        if not is_break:
            texts, lines = zip(*group, strict=True)
            yield Paragraph(" ".join(texts).lower(), lines)


def check_subjects(commits: str) -> list[Finding]:
    """Return the commits of a range, such as `main..HEAD`, whose subject is too long or not `scope: imperative`."""
    command = ["git", "log", "--no-merges", "--format=%h %s", commits]
    log = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [finding for line in log.splitlines() for finding in check_subject(*line.split(" ", 1))]


def check_subject(commit: str, subject: str) -> Iterator[Finding]:
    """Yield what is wrong with one commit's subject."""
    if len(subject) > MAX_SUBJECT:
        message = f"the subject has {len(subject)} characters, at most {MAX_SUBJECT}: {subject}"
        yield Finding(commit, 1, "long subject", message)
    if not SUBJECT.fullmatch(subject):
        yield Finding(commit, 1, "subject form", f"the subject is not 'scope: imperative', in lower case: {subject}")

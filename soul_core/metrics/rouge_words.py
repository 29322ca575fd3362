"""ROUGE-L of two texts in any script, by the `rouge-score` package."""

from functools import cache
from typing import Any

from soul_core.texts import extract_words, fold, is_english


def compute_rouge_l(expected: str, generated: str, *, prompt: str = "", use_stemmer: bool) -> Any | None:
    """Return precision, recall and F1 of the longest common subsequence of words; None: `expected` has no words.

    English, told from `asked` too, and what has ASCII letters only is divided by the package's own tokenizer (letters
    a-z and digits), so that its numbers are the published ones. That tokenizer drops all other scripts and breaks words
    at letters with accents: other languages are divided into words as everywhere else here (`texts.ordered_words`).
    Both texts are folded first.
    """
    expected, generated = fold(expected), fold(generated)
    has_ascii_words = any(char.isascii() and char.isalnum() for char in expected)
    if has_ascii_words and (expected.isascii() or is_english(f"{prompt} {expected}")):
        return _scorer(stem=use_stemmer, english=True).score(expected, generated)["rougeL"]
    if not extract_words(expected, stem=False):
        return None
    return _scorer(stem=use_stemmer, english=False).score(expected, generated)["rougeL"]


class _Words:
    """Our words, in the form in which the package asks for them."""

    def __init__(self, *, stem: bool) -> None:
        self.stem = stem

    def tokenize(self, text: str) -> list[str]:
        return extract_words(text, stem=self.stem)


@cache
def _scorer(*, stem: bool, english: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stem, tokenizer=None if english else _Words(stem=stem))

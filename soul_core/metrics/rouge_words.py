"""ROUGE-L of two texts in any script, by the `rouge-score` package."""

from functools import cache
from typing import Any

from soul_core.texts import extract_words, fold, is_english


def compute_rouge_l(expected: str, generated: str, *, prompt: str = "", use_stemmer: bool) -> Any | None:
    """Return precision, recall and F1 of the longest common subsequence of words; None if `expected` has no words.

    English (detected from `prompt` too) and text with ASCII letters only is split by the package's own tokenizer
    (letters a-z and digits), so that its numbers are the published ones. That tokenizer drops all other scripts and
    splits words at letters with accents: other languages are split by `texts.extract_words`. Both texts are folded
    first.
    """
    expected, generated = fold(expected), fold(generated)
    has_ascii_words = any(char.isascii() and char.isalnum() for char in expected)
    if has_ascii_words and (expected.isascii() or is_english(f"{prompt} {expected}")):
        return _make_scorer(stem=use_stemmer, english=True).score(expected, generated)["rougeL"]
    if not extract_words(expected, stem=False):
        return None
    return _make_scorer(stem=use_stemmer, english=False).score(expected, generated)["rougeL"]


class _WordTokenizer:
    """The package's tokenizer interface for `texts.extract_words`."""

    def __init__(self, *, stem: bool) -> None:
        self.stem = stem

    def tokenize(self, text: str) -> list[str]:
        return extract_words(text, stem=self.stem)


@cache
def _make_scorer(*, stem: bool, english: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(
        ["rougeL"], use_stemmer=stem, tokenizer=None if english else _WordTokenizer(stem=stem)
    )

"""Words that carry grammar and no facts, in the language that a text is in. Torch-free.

The lists are those of `stopwordsiso` (57 languages); English has a list of ours, of grammar alone. Which language a
text is in is told by its script and, where languages share one, by whose function words it holds most of.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from soul_core.texts.folding import fold

ENGLISH = "en"
#: English words that carry grammar, not facts.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his i in is it its of on or "
        "she so that the their them there they this to was we were which who whom whose will with you your",
    )
)
#: A name may well be a function word of some language; two of one language in one text hardly are.
_FEWEST_HITS = 2
_ENGLISH_SHARE = 0.8
#: Scripts that are written side by side: Japanese in three of them.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}


def function_words_of(words: Iterable[str]) -> frozenset[str]:
    """Return the function words of the language, or languages, that these case-folded words are in."""
    found: frozenset[str] = frozenset()
    for language in languages_of(words):
        found |= FUNCTION_WORDS if language == ENGLISH else _words_by_language()[language]
    return found


def languages_of(words: Iterable[str]) -> frozenset[str]:
    """Return the languages (ISO 639-1) that case-folded words may be in, several where nothing tells them apart.

    Words in Latin letters are English unless another language has more function words among them.
    """
    hits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    scripts = set()
    for word in set(words):
        script = _script_of(word)
        scripts.add(script)
        hits[script].update(_languages_by_word().get(word, ()))
    if "CJK" in scripts and any(unicodedata.name(word[0], "").startswith(("HIRAGANA", "KATAKANA")) for word in words):
        hits["CJK"] = Counter({"ja": 1})
    languages: set[str] = set()
    for script, counts in hits.items():
        most = max(counts.values(), default=0)
        best = {language for language, count in counts.items() if count == most}
        is_other = script != "LATIN" or (most >= _FEWEST_HITS and ENGLISH not in best)
        languages |= best if is_other else {ENGLISH}
    return frozenset(languages)


def is_english(words: Iterable[str]) -> bool:
    """Say whether case-folded words are English, or Latin and of no language that is known; a few others aside."""
    words = list(words)
    latin = [word for word in words if _script_of(word) in {"LATIN", ""}]
    return len(latin) >= _ENGLISH_SHARE * len(words) and languages_of(latin) <= {ENGLISH}


@cache
def _languages_by_word() -> dict[str, frozenset[str]]:
    languages: defaultdict[str, set[str]] = defaultdict(set)
    for language, words in _words_by_language().items():
        for word in words:
            languages[word].add(language)
    return {word: frozenset(found) for word, found in languages.items()}


@cache
def _words_by_language() -> dict[str, frozenset[str]]:
    """Return the lists, folded; without phrases, digits and numerals, which may well be facts."""
    from stopwordsiso import langs, stopwords  # 200 KB of lists, for who compares words

    lists = {language: {fold(word).casefold() for word in stopwords(language)} for language in langs()}
    return {language: frozenset(filter(_is_word, words)) for language, words in lists.items()}


def _is_word(text: str) -> bool:
    return (
        " " not in text
        and any(map(str.isalpha, text))
        and any(unicodedata.numeric(char, None) is None for char in text)
    )


@cache
def _script_of(word: str) -> str:
    """Return the script of a word's first letter, as Unicode names begin; "" for a number."""
    letter = next(filter(str.isalpha, word), None)
    if letter is None:
        return ""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return _TOGETHER.get(script, script)

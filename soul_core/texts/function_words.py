"""Finds function words, which carry grammar and no facts, in the language of a text. Torch-free.

The lists are those of `stopwordsiso` (57 languages); English has our own, shorter list. The language of a text follows
from its script and, where languages share one, from the language with the most function words in the text.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import cache, lru_cache

from soul_core.texts.folding import fold

ENGLISH = "en"
#: English words that carry grammar and no facts.
ENGLISH_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his i in is it its of on or "
        "she so that the their them there they this to was we were which who whom whose will with you your",
    )
)
#: A name may be a function word of some language, but two names of one text are rarely those of one language.
_MIN_HITS = 2
_ENGLISH_SHARE = 0.8
_LATIN = "LATIN"
#: Scripts that one language mixes: Japanese uses three.
_MERGED_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}


def find_function_words(words: Collection[str]) -> frozenset[str]:
    """Return those of a text's case-folded words that are function words in the language of the text.

    For each word the other words determine the language, because a name that is a function word in some language proves
    nothing. If several languages are equally likely, each counts; Latin text is English unless another is likelier.
    """
    unique = set(words)
    hits = _count_hits(unique)
    has_kana = any(_is_kana(word) for word in unique)
    return frozenset(word for word in unique if _is_function_word(word, hits[_script_of(word)], has_kana=has_kana))


def _is_function_word(word: str, hits: Counter[str], *, has_kana: bool) -> bool:
    languages = _languages_by_word().get(word, frozenset())
    script = _script_of(word)
    if script == "CJK" and has_kana:
        return "ja" in languages
    other_hits = {language: hits[language] - (language in languages) for language in _languages_by_script()[script]}
    max_hits = max(other_hits.values(), default=0)
    if script == _LATIN and other_hits[ENGLISH] == max_hits:
        return word in ENGLISH_FUNCTION_WORDS
    return any(other_hits[language] == max_hits for language in languages if language in other_hits)


def is_english(words: Sequence[str]) -> bool:
    """Return whether case-folded words are English, or Latin of no known language; some other words are allowed."""
    latin = {word for word in words if _script_of(word) == _LATIN}
    num_other_scripts = sum(_script_of(word) not in {_LATIN, ""} for word in words)
    if num_other_scripts > (1 - _ENGLISH_SHARE) * len(words):
        return False
    hits = _count_hits(latin)[_LATIN]
    max_hits = max(hits.values(), default=0)
    if max_hits >= _MIN_HITS and hits[ENGLISH] < max_hits:
        return False
    return hits[ENGLISH] > 0 or all(map(str.isascii, latin))


def _count_hits(words: Collection[str]) -> defaultdict[str, Counter[str]]:
    """Return script -> language -> number of the words that are its function words."""
    hits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word in words:
        hits[_script_of(word)].update(_languages_by_word().get(word, ()))
    return hits


@cache
def _languages_by_word() -> dict[str, frozenset[str]]:
    languages_by_word: defaultdict[str, set[str]] = defaultdict(set)
    for language, words in _words_by_language().items():
        for word in words:
            languages_by_word[word].add(language)
    return {word: frozenset(languages) for word, languages in languages_by_word.items()}


@cache
def _languages_by_script() -> defaultdict[str, frozenset[str]]:
    """Return script -> the languages with most of their function words in it."""
    languages_by_script: defaultdict[str, set[str]] = defaultdict(set)
    for language, words in _words_by_language().items():
        script = Counter(map(_script_of, words)).most_common(1)[0][0]
        languages_by_script[script].add(language)
    return defaultdict(frozenset, {script: frozenset(languages) for script, languages in languages_by_script.items()})


@cache
def _words_by_language() -> dict[str, frozenset[str]]:
    """Return the lists, folded; without phrases, digits and numerals, which may be facts."""
    from stopwordsiso import langs, stopwords  # 200 KB of lists, loaded only if words are compared

    lists = {language: {fold(word).casefold() for word in stopwords(language)} for language in langs()}
    return {language: frozenset(filter(_is_word, words)) for language, words in lists.items()}


def _is_word(text: str) -> bool:
    return (
        " " not in text
        and any(map(str.isalpha, text))
        and any(unicodedata.numeric(char, None) is None for char in text)
    )


def _is_kana(word: str) -> bool:
    return unicodedata.name(word[0], "").startswith(("HIRAGANA", "KATAKANA"))


@lru_cache(maxsize=65536)
def _script_of(word: str) -> str:
    """Return the script of a word's first letter, the first word of its Unicode name; "" for a number."""
    letter = next(filter(str.isalpha, word), None)
    if letter is None:
        return ""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return _MERGED_SCRIPTS.get(script, script)

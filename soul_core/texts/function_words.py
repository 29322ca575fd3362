"""Words that carry grammar and no facts, in the language that a text is in. Torch-free.

The lists are those of `stopwordsiso` (57 languages); English has a list of ours, of grammar alone. Which language a
text is in is told by its script and, where languages share one, by whose function words it holds most of.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import cache, lru_cache

from soul_core.texts.folding import fold

ENGLISH = "en"
#: English words that carry grammar, not facts.
ENGLISH_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his i in is it its of on or "
        "she so that the their them there they this to was we were which who whom whose will with you your",
    )
)
#: A name may well be a function word of some language; two of one language in one text hardly are.
_FEWEST_HITS = 2
_ENGLISH_SHARE = 0.8
_LATIN = "LATIN"
#: Scripts that are written side by side: Japanese in three of them.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}


def find_function_words(words: Collection[str]) -> frozenset[str]:
    """Return those of a text's case-folded words that are grammar in the language of the text.

    Which language that is, the other words say: a name that some language has as a function word proves nothing about
    itself. Between languages that are as likely any one decides; Latin letters are English unless others are likelier.
    """
    unique = set(words)
    hits = _hits(unique)
    has_kana = any(_is_kana(word) for word in unique)
    return frozenset(word for word in unique if _is_grammar(word, hits[_script_of(word)], has_kana=has_kana))


def _is_grammar(word: str, hits: Counter[str], *, has_kana: bool) -> bool:
    languages = _languages_by_word().get(word, frozenset())
    script = _script_of(word)
    if script == "CJK" and has_kana:
        return "ja" in languages
    others = {language: hits[language] - (language in languages) for language in _languages_by_script()[script]}
    most = max(others.values(), default=0)
    if script == _LATIN and others[ENGLISH] == most:
        return word in ENGLISH_FUNCTION_WORDS
    return any(others[language] == most for language in languages if language in others)


def is_english(words: Sequence[str]) -> bool:
    """Say whether case-folded words are English, or Latin and of no language that is known; a few others aside."""
    latin = {word for word in words if _script_of(word) == _LATIN}
    others = sum(_script_of(word) not in {_LATIN, ""} for word in words)
    if others > (1 - _ENGLISH_SHARE) * len(words):
        return False
    hits = _hits(latin)[_LATIN]
    most = max(hits.values(), default=0)
    if most >= _FEWEST_HITS and hits[ENGLISH] < most:
        return False
    return hits[ENGLISH] > 0 or all(map(str.isascii, latin))


def _hits(words: Collection[str]) -> defaultdict[str, Counter[str]]:
    """Return script -> language -> how many of the words are its function words."""
    hits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word in words:
        hits[_script_of(word)].update(_languages_by_word().get(word, ()))
    return hits


@cache
def _languages_by_word() -> dict[str, frozenset[str]]:
    languages: defaultdict[str, set[str]] = defaultdict(set)
    for language, words in _words_by_language().items():
        for word in words:
            languages[word].add(language)
    return {word: frozenset(found) for word, found in languages.items()}


@cache
def _languages_by_script() -> defaultdict[str, frozenset[str]]:
    """Return script -> the languages most of whose function words are in it."""
    scripts: defaultdict[str, set[str]] = defaultdict(set)
    for language, words in _words_by_language().items():
        scripts[Counter(map(_script_of, words)).most_common(1)[0][0]].add(language)
    return defaultdict(frozenset, {script: frozenset(found) for script, found in scripts.items()})


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


def _is_kana(word: str) -> bool:
    return unicodedata.name(word[0], "").startswith(("HIRAGANA", "KATAKANA"))


@lru_cache(maxsize=65536)
def _script_of(word: str) -> str:
    """Return the script of a word's first letter, as Unicode names begin; "" for a number."""
    letter = next(filter(str.isalpha, word), None)
    if letter is None:
        return ""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return _TOGETHER.get(script, script)

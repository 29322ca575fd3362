"""The third layer: rows written nearly alike, misspelled names included. Candidates by MinHash, each one verified.

Source: Broder 1997 (MinHash); Leskovec et al., Mining of Massive Datasets, 3.4 (banding); the sketches are the package
`rensa`'s.
Differs from a usual deduplication: shingles that many rows share (a template's) are left out, so that rows of one form
about other subjects are no candidates; and a pair counts only when the words that carry the fact are alike too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from soul_core.conflicts.facts import (
    MIN_ANSWER_COVERAGE,
    MIN_FULL_COVERAGE,
    MIN_SUBJECT_COVERAGE,
    Fact,
    extract_facts,
    has_subject_number,
)
from soul_core.conflicts.questions import canonicalize_text
from soul_core.conflicts.vocabulary import RowText, WordWeights, join_row_text

#: Least Jaccard similarity of two rows' telling shingles, taken exactly.
MIN_JACCARD = 0.6
#: The same where a row's fact has no words of its own to compare: its answer repeats the question, or is a mere yes.
_LEAST_JACCARD_ALONE = 0.85
_SHINGLE_CHARS = 3
#: A shingle of more rows than this, or than this share of all rows, belongs to a template.
_COMMON_ROWS, _COMMON_SHARE = 50, 0.02
#: Rows with fewer telling shingles are too short to be alike by more than chance.
_FEW_SHINGLES = 8
#: 64 bands of 3: a pair at LEAST_JACCARD is missed with probability (1 - 0.6^3)^64 < 2e-7.
_BANDS, _BAND_ROWS, _SEED = 64, 3, 0
#: Words at least this alike are one word, misspelled. Short ones and numbers must be equal.
_ALIKE, _LEAST_WORD = 0.75, 4


def find_near_duplicates(
    forget: Sequence[RowText], others: Sequence[RowText], vocabulary: WordWeights
) -> Iterator[tuple[RowText, RowText]]:
    """Yield (forget row, other row) pairs that say the same in nearly the same letters."""
    ours, theirs = _telling([*map(_shingles, forget)], [*map(_shingles, others)])
    by_place = {place: shingles for place, shingles in enumerate(ours) if shingles}
    if not by_place:
        return
    for place, candidates in _candidates(by_place, theirs):
        for candidate in candidates:
            jaccard = len(by_place[candidate] & theirs[place]) / len(by_place[candidate] | theirs[place])
            if jaccard >= MIN_JACCARD and _say_the_same(forget[candidate], others[place], jaccard, vocabulary):
                yield forget[candidate], others[place]


def _shingles(text: RowText) -> frozenset[str]:
    letters = f" {canonicalize_text(join_row_text(text.row))} "
    return frozenset(letters[i : i + _SHINGLE_CHARS] for i in range(len(letters) - _SHINGLE_CHARS + 1))


def _telling(
    ours: Sequence[frozenset[str]], theirs: Sequence[frozenset[str]]
) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
    """Leave out what many rows share; of a row of few telling shingles nothing is left."""
    rows_with = Counter(shingle for shingles in (*ours, *theirs) for shingle in shingles)
    most = max(_COMMON_ROWS, _COMMON_SHARE * (len(ours) + len(theirs)))
    common = {shingle for shingle, count in rows_with.items() if count > most}
    left = [[shingles - common for shingles in side] for side in (ours, theirs)]
    short = [[shingles if len(shingles) >= _FEW_SHINGLES else frozenset() for shingles in side] for side in left]
    return short[0], short[1]


def _candidates(
    ours: dict[int, frozenset[str]], theirs: Sequence[frozenset[str]]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield (place of theirs, places of ours that share a band with it)."""
    from rensa import RMinHash, RMinHashLSH

    num_perm = _BANDS * _BAND_ROWS
    index = RMinHashLSH(threshold=MIN_JACCARD, num_perm=num_perm, num_bands=_BANDS)
    for place, shingles in ours.items():
        index.insert(place, _sketch(RMinHash, shingles, num_perm))
    for place, shingles in enumerate(theirs):
        if shingles:
            yield place, sorted(index.query(_sketch(RMinHash, shingles, num_perm)))


def _sketch(minhash: type, shingles: frozenset[str], num_perm: int) -> object:
    sketch = minhash(num_perm=num_perm, seed=_SEED)
    sketch.update(sorted(shingles))
    return sketch


def _say_the_same(text: RowText, other: RowText, jaccard: float, vocabulary: WordWeights) -> bool:
    facts = list(extract_facts(text, vocabulary))
    if all(fact.has_generic_answer for fact in facts):
        own = text.dialog_words | text.answer_words
        return jaccard >= _LEAST_JACCARD_ALONE and _alike_share(own, other.words, vocabulary) >= MIN_FULL_COVERAGE
    return any(_is_alike(fact, other.words, vocabulary) for fact in facts if not fact.has_generic_answer)


def _is_alike(fact: Fact, words: frozenset[str], vocabulary: WordWeights) -> bool:
    return (
        has_subject_number(words, fact)
        and _alike_share(fact.answer, words, vocabulary) >= MIN_ANSWER_COVERAGE
        and _alike_share(fact.subject, words, vocabulary) >= MIN_SUBJECT_COVERAGE
    )


def _alike_share(wanted: frozenset[str], words: frozenset[str], vocabulary: WordWeights) -> float:
    """Return the weighted share of `wanted` that `words` holds, misspelled or not."""
    found = frozenset(word for word in wanted if word in words or any(_is_misspelled(word, other) for other in words))
    return vocabulary.compute_coverage(wanted, found)


def _is_misspelled(word: str, other: str) -> bool:
    if min(len(word), len(other)) < _LEAST_WORD or word.isdigit() or other.isdigit():
        return False
    return abs(len(word) - len(other)) < len(word) / 2 and SequenceMatcher(None, word, other).ratio() >= _ALIKE

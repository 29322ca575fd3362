"""The third layer: rows with nearly the same letters, such as misspelled names. MinHash candidates, each verified.

Source: Broder 1997 (MinHash); Leskovec et al., Mining of Massive Datasets, 3.4 (banding); the sketches are the package
`rensa`'s.
Differs from usual deduplication: shingles that many rows share (a template's) are ignored, so that rows of one form
about other subjects are not candidates; and a pair counts only if the words that carry the fact are also similar.
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

#: Minimum Jaccard similarity of the distinctive shingles of two rows, computed exactly.
MIN_JACCARD = 0.6
#: Minimum if a row's fact has no words of its own to compare: its answer repeats the question, or is just yes.
_MIN_JACCARD_ALONE = 0.85
_SHINGLE_CHARS = 3
#: A shingle in more rows than this, or in more than this share of all rows, belongs to a template.
_COMMON_ROWS, _COMMON_SHARE = 50, 0.02
#: With fewer distinctive shingles a row is so short that similarity is chance.
_MIN_SHINGLES = 8
#: 64 bands of 3: a pair at MIN_JACCARD is missed with probability (1 - 0.6^3)^64 < 2e-7.
_BANDS, _BAND_ROWS, _SEED = 64, 3, 0
#: Words at least this similar are one word, misspelled. Shorter words and numbers must be equal.
_MIN_WORD_SIMILARITY, _MIN_WORD_CHARS = 0.75, 4


def find_near_duplicates(
    forget: Sequence[RowText], others: Sequence[RowText], vocabulary: WordWeights
) -> Iterator[tuple[RowText, RowText]]:
    """Yield (forget row, other row) pairs that state the same in nearly the same letters."""
    forget_shingles, other_shingles = _keep_distinctive([*map(_shingles, forget)], [*map(_shingles, others)])
    shingles_by_index = {index: shingles for index, shingles in enumerate(forget_shingles) if shingles}
    if not shingles_by_index:
        return
    for other_index, candidates in _find_candidates(shingles_by_index, other_shingles):
        for index in candidates:
            shingles, other = shingles_by_index[index], other_shingles[other_index]
            jaccard = len(shingles & other) / len(shingles | other)
            if jaccard >= MIN_JACCARD and _state_the_same(forget[index], others[other_index], jaccard, vocabulary):
                yield forget[index], others[other_index]


def _shingles(text: RowText) -> frozenset[str]:
    letters = f" {canonicalize_text(join_row_text(text.row))} "
    return frozenset(letters[i : i + _SHINGLE_CHARS] for i in range(len(letters) - _SHINGLE_CHARS + 1))


def _keep_distinctive(
    forget: Sequence[frozenset[str]], others: Sequence[frozenset[str]]
) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
    """Remove shingles that many rows share, and all shingles of rows that then have few."""
    num_rows_with = Counter(shingle for shingles in (*forget, *others) for shingle in shingles)
    max_rows = max(_COMMON_ROWS, _COMMON_SHARE * (len(forget) + len(others)))
    common = {shingle for shingle, count in num_rows_with.items() if count > max_rows}

    def keep(shingles: frozenset[str]) -> frozenset[str]:
        distinctive = shingles - common
        return distinctive if len(distinctive) >= _MIN_SHINGLES else frozenset()

    return [*map(keep, forget)], [*map(keep, others)]


def _find_candidates(
    forget: dict[int, frozenset[str]], others: Sequence[frozenset[str]]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield (index of another row, indices of forget rows that share a band with it)."""
    from rensa import RMinHash, RMinHashLSH

    num_perm = _BANDS * _BAND_ROWS
    index = RMinHashLSH(threshold=MIN_JACCARD, num_perm=num_perm, num_bands=_BANDS)
    for forget_index, shingles in forget.items():
        index.insert(forget_index, _sketch(RMinHash, shingles, num_perm))
    for other_index, shingles in enumerate(others):
        if shingles:
            yield other_index, sorted(index.query(_sketch(RMinHash, shingles, num_perm)))


def _sketch(minhash: type, shingles: frozenset[str], num_perm: int) -> object:
    sketch = minhash(num_perm=num_perm, seed=_SEED)
    sketch.update(sorted(shingles))
    return sketch


def _state_the_same(text: RowText, other: RowText, jaccard: float, vocabulary: WordWeights) -> bool:
    facts = list(extract_facts(text, vocabulary))
    if all(fact.has_generic_answer for fact in facts):
        words = text.dialog_words | text.answer_words
        coverage = _compute_similar_coverage(words, other.words, vocabulary)
        return jaccard >= _MIN_JACCARD_ALONE and coverage >= MIN_FULL_COVERAGE
    return any(_is_similar(fact, other.words, vocabulary) for fact in facts if not fact.has_generic_answer)


def _is_similar(fact: Fact, words: frozenset[str], vocabulary: WordWeights) -> bool:
    return (
        has_subject_number(words, fact)
        and _compute_similar_coverage(fact.answer, words, vocabulary) >= MIN_ANSWER_COVERAGE
        and _compute_similar_coverage(fact.subject, words, vocabulary) >= MIN_SUBJECT_COVERAGE
    )


def _compute_similar_coverage(wanted: frozenset[str], words: frozenset[str], vocabulary: WordWeights) -> float:
    """Return the weighted share of `wanted` that `words` holds, misspelled or not."""
    covered = frozenset(word for word in wanted if word in words or any(_is_misspelled(word, other) for other in words))
    return vocabulary.compute_coverage(wanted, covered)


def _is_misspelled(word: str, other: str) -> bool:
    if min(len(word), len(other)) < _MIN_WORD_CHARS or word.isdigit() or other.isdigit():
        return False
    return (
        abs(len(word) - len(other)) < len(word) / 2
        and SequenceMatcher(None, word, other).ratio() >= _MIN_WORD_SIMILARITY
    )

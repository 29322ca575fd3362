"""Forgotten facts in the judged model's own answers, on whatever set they come. Torch-free.

The rule and its reasons are in docs/reference/criteria.md, "Recitals". `run()` calls this before the verdict.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from soul_core.catalogue import METRIC_CATALOG
from soul_core.conflicts.facts import Fact, FactIndex, extract_facts, is_about, recites_fact
from soul_core.conflicts.vocabulary import RowText, WordWeights, make_row_texts
from soul_core.data import Row
from soul_core.formatting import format_list
from soul_core.report import ModelMeasurements, Recital, SetConflicts
from soul_core.spec import JobSpec, is_forget_set
from soul_core.texts import extract_word_set

#: Mean probability of a row's tokens from which on a model that was not asked is taken to know it by heart.
MEMORIZED_PROBABILITY = 0.9
_MAX_EQUAL_FACTS = 20
#: Rows of a set named in the verdict's reason; the report lists all.
_MAX_NAMED = 10

Answers = Mapping[str, Mapping[int, str]]
RowsBySet = Mapping[str, Sequence[Row]]


def find_recitals(
    spec: JobSpec,
    rows: RowsBySet,
    conflicts: Sequence[SetConflicts],
    measurements: ModelMeasurements,
    answers: Answers,
) -> tuple[Recital, ...]:
    """Return every measured row on which a fact of a forget set comes out, one for each row and forget set.

    `rows` are those that were measured, `conflicts` which of them ask for which forget rows, `measured` and `answers`
    the judged model's. Sets whose recall a criterion bounds from above are left to that criterion.
    """
    bounded = _bounded_sets(spec, measurements.sets)
    claimed = [name for name in rows if is_forget_set(name) and (spec.unlearns(name) or name in bounded)]
    found: list[Recital] = []
    for forget_set in claimed:
        tolerated: frozenset[int] = frozenset()
        if forget_set in bounded:
            own = _Search(forget_set, forget_set, rows, conflicts, measurements, answers)
            tolerated = frozenset(one.forget_row for one in own.recitals() if one.row == one.forget_row)
        for other in rows:
            if other not in bounded:
                search = _Search(forget_set, other, rows, conflicts, measurements, answers)
                found += search.recitals(tolerated)
    return tuple(found)


def _bounded_sets(spec: JobSpec, sets: Collection[str]) -> set[str]:
    """Return the sets of which a criterion bounds from above how much the model still says."""
    return {
        criterion.set
        for criterion in spec.expand_criteria(sets)
        if criterion.at_most is not None and criterion.attack is None and _is_recall(criterion.metric)
    }


def _is_recall(metric: str) -> bool:
    entry = METRIC_CATALOG[metric]
    return (entry.scope, entry.better_on_forget, entry.better_on_other_sets) == ("row", "lower", "higher")


class _Search:
    """One set searched for the facts of one forget set."""

    def __init__(
        self,
        forget_set: str,
        other: str,
        rows: RowsBySet,
        conflicts: Sequence[SetConflicts],
        measured: ModelMeasurements,
        answers: Answers,
    ) -> None:
        self._forget_set, self._other = forget_set, other
        forget, self._texts = make_row_texts(rows[forget_set]), make_row_texts(rows[other])
        self._vocabulary = WordWeights((*forget, *self._texts))
        facts = [fact for text in forget for fact in extract_facts(text, self._vocabulary)]
        self._index = FactIndex(facts, self._vocabulary, max_duplicates=_MAX_EQUAL_FACTS)
        self._of_row: defaultdict[int, list[Fact]] = defaultdict(list)
        for fact in facts:
            self._of_row[fact.row].append(fact)
        self._asked_by = _pairs(forget_set, other, conflicts)
        self._answers = answers.get(other, {})
        self._probability = _by_row(measured, other, "probability")

    def recitals(self, tolerated: Collection[int] = ()) -> Iterator[Recital]:
        """Yield at most one recital a row: of what the row asks for, else of any fact. `tolerated`: forget rows whose
        plain recital a criterion has judged already.
        """
        for text in self._texts:
            answer = self._answers.get(text.row.number)
            fact = self._by_heart(text) if answer is None else self._in_answer(text, answer)
            if fact is not None and fact.row not in tolerated:
                yield Recital(
                    set=self._other,
                    row=text.row.number,
                    forget_set=self._forget_set,
                    forget_row=fact.row,
                    evidence="probability" if answer is None else "answer",
                )

    def _asked(self, text: RowText) -> list[Fact]:
        number = text.row.number
        rows = [number] if self._other == self._forget_set else self._asked_by.get(number, [])
        return [fact for row in rows for fact in self._of_row[row]]

    def _in_answer(self, text: RowText, answer: str) -> Fact | None:
        given, prompt = extract_word_set(answer), text.prompt_words
        for fact in self._asked(text):
            if recites_fact(given, prompt, fact, self._vocabulary):
                return fact
        for fact in self._index.find_candidates(given | prompt):
            if recites_fact(given, prompt, fact, self._vocabulary) and is_about(given | prompt, fact, self._vocabulary):
                return fact
        return None

    def _by_heart(self, text: RowText) -> Fact | None:
        """Return the fact that a row states which the model was not asked, but knows word by word."""
        if (self._probability.get(text.row.number) or 0.0) < MEMORIZED_PROBABILITY:
            return None
        stated = (
            fact
            for fact in self._asked(text)
            if recites_fact(text.answer_words, text.prompt_words, fact, self._vocabulary)
        )
        return next(stated, None)


def _pairs(forget_set: str, other: str, conflicts: Sequence[SetConflicts]) -> dict[int, list[int]]:
    pairs: defaultdict[int, list[int]] = defaultdict(list)
    for each in conflicts:
        if (each.forget_set, each.other_set) == (forget_set, other):
            for one in each.rows:
                pairs[one.row].append(one.forget_row)
    return dict(pairs)


def _by_row(measured: ModelMeasurements, name: str, metric: str) -> dict[int, float | None]:
    value = measured.sets.get(name, {}).get(metric)
    return dict(zip(measured.rows.get(name, ()), (value and value.per_example) or (), strict=False))


def format_recitals(recitals: Sequence[Recital]) -> str:
    """Say where facts came out: the retain_dropped set, row 1 (forget row 1), row 2 (forget row 2)."""
    by_set: defaultdict[str, list[str]] = defaultdict(list)
    for one in recitals:
        by_set[one.set].append(f"row {one.row} ({one.forget_set} row {one.forget_row})")
    return "; ".join(f"the {name} set, {format_list(lines, _MAX_NAMED)}" for name, lines in by_set.items())

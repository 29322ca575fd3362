"""Recitals: facts of a forget set in the judged model's own answers, on any set. Torch-free.

The rule and its reasons are in docs/reference/criteria.md, "Recitals". `run()` calls this before the verdict.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from soul_core.catalogue import METRIC_CATALOG
from soul_core.conflicts.facts import Fact, FactIndex, extract_facts, is_about, recites_fact
from soul_core.conflicts.vocabulary import RowText, WordWeights, make_row_texts
from soul_core.data import RowsBySet
from soul_core.evaluation.model_evaluation import Answers
from soul_core.formatting import format_list
from soul_core.report import ModelMeasurements, Recital, SetConflicts
from soul_core.spec import JobSpec, is_forget_set
from soul_core.texts import extract_word_set

#: Mean probability of a row's tokens from which a model has memorized it; used for rows without a question.
MEMORIZED_PROBABILITY = 0.9
#: Equal facts that are searched for.
_MAX_EQUAL_FACTS = 20
#: Rows of a set in the verdict's reason; the report lists all.
_MAX_LISTED = 10


def find_recitals(
    spec: JobSpec,
    rows: RowsBySet,
    conflicts: Sequence[SetConflicts],
    measurements: ModelMeasurements,
    answers: Answers,
) -> tuple[Recital, ...]:
    """Return every measured row on which the judged model recites a fact, one per row and forget set.

    A set whose recall a criterion bounds from above is judged by that criterion, and not searched.

    Args:
        rows: The measured rows.
        conflicts: Which of these rows ask for which forget rows.
        measurements: Of the judged model.
        answers: Of the judged model, preambles included.
    """
    bounded = _find_bounded_sets(spec, measurements.sets)
    forget_sets = [name for name in rows if is_forget_set(name) and (spec.unlearns(name) or name in bounded)]
    recitals: list[Recital] = []
    for forget_set in forget_sets:
        tolerated: frozenset[int] = frozenset()
        if forget_set in bounded:
            search = _FactSearch(forget_set, forget_set, rows, conflicts, measurements, answers)
            tolerated = frozenset(
                recital.forget_row for recital in search.find_recitals() if recital.row == recital.forget_row
            )
        for searched_set in rows:
            if searched_set not in bounded:
                search = _FactSearch(forget_set, searched_set, rows, conflicts, measurements, answers)
                recitals += search.find_recitals(tolerated)
    return tuple(recitals)


def _find_bounded_sets(spec: JobSpec, sets: Collection[str]) -> set[str]:
    """Return the sets whose recall a criterion bounds from above."""
    return {
        criterion.set
        for criterion in spec.expand_criteria(sets)
        if criterion.at_most is not None and criterion.attack is None and _is_recall(criterion.metric)
    }


def _is_recall(metric: str) -> bool:
    entry = METRIC_CATALOG[metric]
    return (entry.scope, entry.better_on_forget, entry.better_on_other_sets) == ("row", "lower", "higher")


class _FactSearch:
    """Searches one set for the facts of one forget set."""

    def __init__(
        self,
        forget_set: str,
        searched_set: str,
        rows: RowsBySet,
        conflicts: Sequence[SetConflicts],
        measurements: ModelMeasurements,
        answers: Answers,
    ) -> None:
        self._forget_set, self._searched_set = forget_set, searched_set
        forget_texts, self._texts = make_row_texts(rows[forget_set]), make_row_texts(rows[searched_set])
        self._vocabulary = WordWeights((*forget_texts, *self._texts))
        facts = [fact for text in forget_texts for fact in extract_facts(text, self._vocabulary)]
        self._index = FactIndex(facts, self._vocabulary, max_duplicates=_MAX_EQUAL_FACTS)
        self._facts_by_forget_row: defaultdict[int, list[Fact]] = defaultdict(list)
        for fact in facts:
            self._facts_by_forget_row[fact.row].append(fact)
        self._forget_rows = _list_forget_rows(forget_set, searched_set, conflicts)
        self._answers = answers.get(searched_set, {})
        self._probabilities = _get_row_values(measurements, searched_set, "probability")

    def find_recitals(self, tolerated: Collection[int] = ()) -> Iterator[Recital]:
        """Yield at most one recital per row: of a fact that the row asks for, else of any fact.

        Args:
            tolerated: Forget rows whose recital a criterion has judged already.
        """
        for text in self._texts:
            answer = self._answers.get(text.row.number)
            fact = self._find_memorized_fact(text) if answer is None else self._find_recited_fact(text, answer)
            if fact is not None and fact.row not in tolerated:
                yield Recital(
                    set=self._searched_set,
                    row=text.row.number,
                    forget_set=self._forget_set,
                    forget_row=fact.row,
                    evidence="probability" if answer is None else "answer",
                )

    def _list_requested_facts(self, text: RowText) -> list[Fact]:
        """Return the facts that a row asks for, or states."""
        number = text.row.number
        rows = [number] if self._searched_set == self._forget_set else self._forget_rows.get(number, [])
        return [fact for row in rows for fact in self._facts_by_forget_row[row]]

    def _find_recited_fact(self, text: RowText, answer: str) -> Fact | None:
        answer_words, prompt_words = extract_word_set(answer), text.prompt_words
        for fact in self._list_requested_facts(text):
            if recites_fact(answer_words, prompt_words, fact, self._vocabulary):
                return fact
        all_words = answer_words | prompt_words
        for fact in self._index.find_candidates(all_words):
            if recites_fact(answer_words, prompt_words, fact, self._vocabulary) and is_about(
                all_words, fact, self._vocabulary
            ):
                return fact
        return None

    def _find_memorized_fact(self, text: RowText) -> Fact | None:
        """Return a fact that a row without a question states, if the model has memorized the row."""
        if (self._probabilities.get(text.row.number) or 0.0) < MEMORIZED_PROBABILITY:
            return None
        for fact in self._list_requested_facts(text):
            if recites_fact(text.answer_words, text.prompt_words, fact, self._vocabulary):
                return fact
        return None


def _list_forget_rows(forget_set: str, other_set: str, conflicts: Sequence[SetConflicts]) -> dict[int, list[int]]:
    """Return row of the other set -> forget rows whose facts it asks for, or states."""
    forget_rows: defaultdict[int, list[int]] = defaultdict(list)
    for conflict in conflicts:
        if (conflict.forget_set, conflict.other_set) == (forget_set, other_set):
            for pair in conflict.rows:
                forget_rows[pair.row].append(pair.forget_row)
    return dict(forget_rows)


def _get_row_values(measurements: ModelMeasurements, name: str, metric: str) -> dict[int, float | None]:
    value = measurements.sets.get(name, {}).get(metric)
    return dict(zip(measurements.rows.get(name, ()), (value and value.per_example) or (), strict=False))


def format_recitals(recitals: Sequence[Recital]) -> str:
    """Return the places of recitals: the retain_dropped set, row 1 (forget row 1), row 2 (forget row 2)."""
    by_set: defaultdict[str, list[str]] = defaultdict(list)
    for recital in recitals:
        by_set[recital.set].append(f"row {recital.row} ({recital.forget_set} row {recital.forget_row})")
    return "; ".join(f"the {name} set, {format_list(lines, _MAX_LISTED)}" for name, lines in by_set.items())

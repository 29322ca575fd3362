"""Paraphrases of the forget rows, as further rows to train on: a fact is forgotten in more than its own wording.

The base model rewords questions and answers; a rewording that loses or reveals the fact is refused, and a question from
a template takes its place. Measured rows stay the originals, and no template is one that a probe or an attack asks by.
Source: ours; training on paraphrases of forget rows is common (Patil et al. 2023, arXiv:2309.17410, section 5).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soul_core.atomic_io import load_or_make_json
from soul_core.conflicts.facts import MIN_STRICT_SUBJECT_COVERAGE
from soul_core.conflicts.vocabulary import WordWeights, get_asking_words, make_row_texts
from soul_core.data import Message, Row
from soul_core.data.encoding import Example
from soul_core.events import Listener
from soul_core.models.generation import Sampling, generate_until_stopped
from soul_core.models.loading import LoadedModel
from soul_core.objectives.alternative_answers import get_source_row
from soul_core.spec import JobSpec
from soul_core.texts import extract_keywords, extract_word_set, extract_words

_FILE = "paraphrases.json"
_TEMPLATES = (
    "I am putting together some notes and one point is still open. {question}",
    "{question} A short reply is enough.",
    "One more question before we finish: {question}",
    "My friend and I disagree about this. {question}",
    "Let us check a detail. {question}",
    "{question} I could not find it anywhere.",
    "Help me remember something: {question}",
    "This came up at lunch today: {question}",
)
_REQUESTS = {
    "question": "Ask the same thing in different words. Keep all names and numbers. Write only the new question.\n\n",
    "answer": "Say the same thing in different words. Keep all names and numbers. Write only the new text.\n\n",
}
_TEMPERATURE = 0.7
#: A rewording takes at most this many times the tokens of the text, and these in addition.
_LENGTH_FACTOR, _LENGTH_MARGIN = 1.5, 16
_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class _Paraphrase:
    """One further row: the index of the forget example, which part is new, its text, and who wrote it."""

    index: int
    part: str
    text: str
    writer: str

    def make_row(self, row: Row) -> Row:
        """Return the row with the new question or answer, without the columns of metrics."""
        if self.part == "answer":
            return replace(row, completion=self.text, extra={})
        question = row.messages[-1]
        return replace(row, messages=(*row.messages[:-1], Message(question.role, self.text)), extra={})


def add_paraphrases(
    loaded: LoadedModel, spec: JobSpec, forget: Sequence[Example], folder: Path, listener: Listener
) -> Sequence[Example]:
    """Return the forget examples and after them their paraphrases, at most `spec.data.paraphrases` for each.

    The model must still be the base model. Paraphrases are written once and stored in `folder` for a resumed run; those
    that are too long for the model are left out.
    """
    if not spec.data.paraphrases or not forget:
        return forget
    stored = load_or_make_json(
        folder / _FILE, "the paraphrases", lambda: [vars(p) for p in _write_paraphrases(loaded, spec, forget, listener)]
    )
    paraphrases = [_Paraphrase(**content) for content in stored]
    max_tokens = min(spec.training.max_tokens, loaded.facts.context_tokens)
    examples = [loaded.encoder.encode(p.make_row(get_source_row(forget[p.index]))) for p in paraphrases]
    return [*forget, *(example for example in examples if len(example.token_ids) <= max_tokens)]


def _write_paraphrases(
    loaded: LoadedModel, spec: JobSpec, forget: Sequence[Example], listener: Listener
) -> list[_Paraphrase]:
    rows = [get_source_row(example) for example in forget]
    check = FactCheck(rows)
    paraphrases: list[_Paraphrase] = []
    for number in range(spec.data.paraphrases):
        parts = ["question" if row.messages and number % 2 == 0 else "answer" for row in rows]
        texts = _reword(loaded, rows, parts, spec.seed + number, listener)
        for index, (row, part, text) in enumerate(zip(rows, parts, texts, strict=True)):
            candidates = [_Paraphrase(index, part, text, "model")] if check.keeps_fact(row, part, text) else []
            if row.messages:
                template = _TEMPLATES[(index + number) % len(_TEMPLATES)]
                asked = template.replace("{question}", row.messages[-1].content)
                candidates.append(_Paraphrase(index, "question", asked, "template"))
            known = {(p.part, p.text) for p in paraphrases if p.index == index}
            paraphrases += [p for p in candidates if (p.part, p.text) not in known][:1]
    writers = Counter(paraphrase.writer for paraphrase in paraphrases)
    listener.emit(
        "log",
        message=f"{len(paraphrases)} paraphrases of {len(rows)} forget rows are trained on too: {writers['model']} by "
        f"the model, {writers['template']} by templates",
    )
    return paraphrases


def _reword(loaded: LoadedModel, rows: Sequence[Row], parts: Sequence[str], seed: int, listener: Listener) -> list[str]:
    """Return one text of the model for each row: its question or its answer in other words, unchecked."""
    originals = [
        row.messages[-1].content if part == "question" else row.completion
        for row, part in zip(rows, parts, strict=True)
    ]
    prompts = [
        loaded.encoder.encode_prompt(Row(row.number, (Message("user", _REQUESTS[part] + text),), ""))
        for row, part, text in zip(rows, parts, originals, strict=True)
    ]
    num_tokens = max(len(loaded.tokenizer.encode(text, add_special_tokens=False)) for text in originals)
    max_new_tokens = min(_MAX_NEW_TOKENS, int(_LENGTH_FACTOR * num_tokens) + _LENGTH_MARGIN)
    answers = generate_until_stopped(loaded, prompts, max_new_tokens, listener, Sampling(seed, _TEMPERATURE))
    texts = [loaded.encoder.decode_answer(answer).answer.strip() for answer in answers]
    return [
        text.split("\n")[0].strip().strip('"') if part == "question" else text
        for text, part in zip(texts, parts, strict=True)
    ]


class FactCheck:
    """Whether a rewording still states, or still asks for, the fact of its row."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._weights = WordWeights(make_row_texts(rows))

    def keeps_fact(self, row: Row, part: str, text: str) -> bool:
        """Return whether a new question keeps names, numbers and most words of the subject and has no keyword of the
        answer, or a new answer keeps all keywords; and whether the words are other ones.
        """
        dialog = " ".join(message.content for message in row.messages)
        keywords, words = extract_keywords(row.completion, dialog), extract_word_set(text)
        if part == "answer":
            return keywords <= words and extract_words(text) != extract_words(row.completion)
        question = row.messages[-1].content
        subject = extract_keywords(question, "") - get_asking_words()
        names = {word for word in subject if self._weights.is_name(word)}
        return (
            names <= words
            and self._weights.compute_coverage(subject, words) >= MIN_STRICT_SUBJECT_COVERAGE
            and not keywords & words
            and extract_words(text) != extract_words(question)
        )

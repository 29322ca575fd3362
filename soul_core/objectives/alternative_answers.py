"""Other answers to the forget prompts as training examples: refusals (`refusal`, `dpo`, `after`), alternates (`altpo`).

Refusals are fixed texts. Alternates are written by the base model before training, in one of two ways: in a further
turn of the conversation (prompt, answer to forget, instruction), or as an answer to the prompt itself while the tokens
that begin the answer's keywords are suppressed.
Source of alternates: Mekala et al. 2024, arXiv:2409.13474 (sampled at temperature 1, at most 200 tokens).
Differs from it: question and answer are turns of the chat instead of the text `Question: ... Answer: ...`; each answer
has one alternate; an alternate that repeats more than half of the answer's keywords is sampled again, at a higher
temperature each time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from soul_core.atomic_io import load_or_make_json
from soul_core.data import Message, Row
from soul_core.data.encoding import Example, format_too_long
from soul_core.errors import BadData
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.models.generation import Sampling, generate, get_end_ids
from soul_core.models.loading import LoadedModel
from soul_core.objectives.terms import ExampleContext
from soul_core.spec.terms import AltPo
from soul_core.texts import extract_keywords, extract_word_set, split_words

_FILE = "alternates.json"
#: An alternate needs space for this many tokens.
_MIN_ALTERNATE_TOKENS = 8


class RefusalTexts(Protocol):
    """The settings of a term that has texts of refusals."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """The texts, of which each forget example gets one."""


def make_refusal_examples(
    forget: Sequence[Example], spec: RefusalTexts, context: ExampleContext, **_: Any
) -> list[Example]:
    """Return each forget prompt with a refusal as its answer, drawn by the seed. The refusal's own tokens are
    supervised.
    """
    generator = torch.Generator().manual_seed(context.seed)
    choices = torch.randint(len(spec.refusals), (len(forget),), generator=generator).tolist()
    return [
        replace_answer(example, spec.refusals[choice], context.loaded)
        for example, choice in zip(forget, choices, strict=True)
    ]


def check_refusals(forget: Sequence[Example], spec: RefusalTexts, context: ExampleContext) -> Iterator[str]:
    """Yield one line for each row that is too long with its refusal."""
    for example in make_refusal_examples(forget, spec, context):
        if len(example.token_ids) > context.max_tokens and get_source_row(example).messages:
            too_long = format_too_long(len(example.token_ids), context.max_tokens)
            yield f"row {example.row_number}: with its refusal {too_long}"


def make_alternate_examples(
    forget: Sequence[Example], spec: AltPo, context: ExampleContext, *, folder: Path, listener: Listener
) -> list[Example]:
    """Return each forget prompt with an alternate as its answer. Alternates are sampled once and stored in `folder`.

    Raises:
        BadData: For some rows the model writes no other answer; the details name them.
    """
    texts = load_or_make_json(
        folder / _FILE, "the alternate answers", lambda: _sample_alternates(forget, spec, context, listener)
    )
    return [replace_answer(example, text, context.loaded) for example, text in zip(forget, texts, strict=True)]


def check_alternates(forget: Sequence[Example], spec: AltPo, context: ExampleContext) -> Iterator[str]:
    """Yield one line for each row whose prompt and instruction leave no space for an alternate in the context."""
    limit = context.loaded.facts.context_tokens
    for example in forget:
        if not get_source_row(example).messages:
            continue
        length = len(make_alternate_prompt(example, spec, context.loaded))
        if length + _MIN_ALTERNATE_TOKENS > limit:
            yield (
                f"row {example.row_number}: prompt and instruction take {length} tokens and leave no space for an "
                f"alternate; the model's limit is {limit}"
            )


def make_alternate_prompt(example: Example, spec: AltPo, loaded: LoadedModel) -> list[int]:
    """Return the tokens that the model continues with an alternate.

    `constrained`: the prompt. `instructed`: prompt, answer, instruction, and what the template writes before an answer.
    """
    row = get_source_row(example)
    if spec.alternates == "constrained":
        return list(loaded.encoder.encode_prompt(row))
    if loaded.tokenizer.chat_template:
        messages = (*row.messages, Message("assistant", row.completion), Message("user", spec.instruction))
        return list(loaded.encoder.encode_prompt(Row(row.number, messages, "")))
    instruction_ids = loaded.tokenizer.encode(f"\n\n{spec.instruction}\n\n", add_special_tokens=False)
    return [*example.token_ids[: len(example.token_ids) - example.num_end_tokens], *instruction_ids]


def replace_answer(example: Example, answer: str, loaded: LoadedModel) -> Example:
    """Return the example's prompt with another answer."""
    return loaded.encoder.encode(replace(get_source_row(example), completion=answer))


def get_source_row(example: Example) -> Row:
    """Return the row that the example was encoded from."""
    assert example.source_row is not None, "only an example of a row can get another answer"
    return example.source_row


def _sample_alternates(
    forget: Sequence[Example], spec: AltPo, context: ExampleContext, listener: Listener
) -> list[str]:
    """Return one alternate per forget example; samples again, up to `spec.tries` times, what repeats the answer."""
    loaded = context.loaded
    texts: list[str] = [""] * len(forget)
    missing = list(range(len(forget)))
    for attempt in range(spec.tries):
        if not missing:
            break
        prompts = [make_alternate_prompt(forget[index], spec, loaded) for index in missing]
        suppressed = {}
        if spec.alternates == "constrained":
            suppressed = {
                tuple(prompt): _find_keyword_tokens(forget[index], loaded)
                for prompt, index in zip(prompts, missing, strict=True)
            }
        answers = generate(
            loaded.model,
            prompts,
            end_ids=get_end_ids(loaded),
            max_new_tokens=spec.max_new_tokens,
            context_tokens=loaded.facts.context_tokens,
            on_progress=_ProgressReport(listener, num_done=len(forget) - len(missing), num_total=len(forget)),
            sampling=Sampling(context.seed + attempt, spec.temperature * (1 + attempt / 4), suppressed),
        )
        for index, token_ids in zip(missing, answers, strict=True):
            texts[index] = _cut_alternate(token_ids, forget[index], context)
        missing = [index for index in missing if not _is_alternate(texts[index], forget[index])]
    if missing:
        raise BadData(
            f"forget set: the model writes no other answer for {len(missing)} of {len(forget)} rows; use forget.kind "
            "'dpo', which prefers refusals, or another forget.instruction",
            details=tuple(f"row {forget[index].row_number}: no alternate in {spec.tries} tries" for index in missing),
        )
    return texts


class _ProgressReport:
    """Reports the rows answered so far, and ends the generation when a stop is requested."""

    def __init__(self, listener: Listener, *, num_done: int, num_total: int) -> None:
        self._listener, self._num_done, self._num_total = listener, num_done, num_total

    def __call__(self, num_rows: int) -> None:
        raise_if_stop_requested(self._listener)
        if num_rows:
            self._num_done = min(self._num_done + num_rows, self._num_total)
            self._listener.emit(
                "progress", phase="unlearn", done=self._num_done, total=self._num_total, unit="alternate answer"
            )


def _cut_alternate(token_ids: Sequence[int], example: Example, context: ExampleContext) -> str:
    """Return the first paragraph of a continuation, shortened until the example fits in `max_tokens`."""
    loaded = context.loaded
    text = loaded.encoder.decode_answer(token_ids).answer.split("\n\n")[0].strip()
    while text and len(replace_answer(example, text, loaded).token_ids) > context.max_tokens:
        text = text[: len(text) * 3 // 4].rstrip()
    return text


def _is_alternate(text: str, example: Example) -> bool:
    """Return whether a text is not empty and repeats at most half of the answer's keywords (without any: words)."""
    row = get_source_row(example)
    keywords, words = _extract_answer_keywords(row), extract_word_set(text)
    if keywords:
        return bool(words) and 2 * len(keywords & words) <= len(keywords)
    return bool(words) and words != extract_word_set(row.completion)


def _find_keyword_tokens(example: Example, loaded: LoadedModel) -> tuple[int, ...]:
    """Return the tokens that can begin one of the answer's keywords, anywhere in a sentence."""
    row = get_source_row(example)
    keywords = _extract_answer_keywords(row)
    words = {word for word in split_words(row.completion) if extract_word_set(word) & keywords}
    spellings = {form for word in words for form in (word, word.lower(), word.capitalize())}
    encodings = [
        loaded.tokenizer.encode(prefix + word, add_special_tokens=False) for word in spellings for prefix in ("", " ")
    ]
    return tuple(sorted({token_ids[0] for token_ids in encodings if token_ids}))


def _extract_answer_keywords(row: Row) -> frozenset[str]:
    """Return the words that carry the answer: those that the prompt does not have."""
    return extract_keywords(row.completion, " ".join(message.content for message in row.messages))

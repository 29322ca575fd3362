"""Rows to token examples: exactly what the model's own chat template renders, the answer located in it.

Loss falls on the answer and on the mark that ends its turn. Spans come from the rendered text, never from token ids:
`eos` may well be `pad`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from soul_core.chat.answer_text import AnswerText, split_answer
from soul_core.chat.template import ChatTemplate, TemplateError, Turn, contains_answer, count_common_prefix
from soul_core.chat.turns import SYSTEM_ROLES, choose_separator, merge_system_turns
from soul_core.data import Row
from soul_core.errors import BadData, BadModel

#: Rows of each set that are compared with `apply_chat_template` at load.
_CHECKED_ROWS = 8
_ANY_QUESTION = ({"role": "user", "content": "Kappa?"},)


class UnusableRowError(ValueError):
    """A row that cannot be encoded. The message does not quote the row."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens. Positions `num_prompt`.. are supervised; `num_prompt` is at least 1."""

    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    row_number: int  # the row's number in its file
    num_end_tokens: int = 0
    """Tokens at the end that the template writes after the answer: up to and with the mark that ends the turn."""
    generation_prompt_ids: tuple[int, ...] | None = field(default=None, compare=False)
    """What the model is given when it answers by itself; None: the generation prompt of the row."""
    source_row: Row | None = field(default=None, compare=False, repr=False)
    """The row it was made of."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What decides how a chat template renders, beside the template: its variables, and the day on which it renders."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: date = field(default_factory=lambda: datetime.now(UTC).date())


class RowEncoder:
    """Turns rows into token examples with one tokenizer, its chat template and the settings of that."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self._settings = settings or ChatSettings()

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template; None: the model has none. Raises BadModel where it has several and none is the default."""
        source = self.tokenizer.chat_template
        if isinstance(source, dict):
            if "default" not in source:
                raise BadModel(
                    f"the model has several chat templates ({', '.join(sorted(source))}) and none is named 'default'; "
                    "give the one to use (chat_template)"
                )
            source = source["default"]
        if not source:
            return None
        return ChatTemplate(source, dict(self.tokenizer.special_tokens_map), self._settings.kwargs, self._settings.date)

    def encode(self, row: Row, *, prefill: str = "") -> Example:
        """Encode a row as its prompt and its answer; plain text as it is, without an end: it continues.

        `given` is a beginning of the answer that the model is given: the rest of the answer alone is supervised.
        Tokens that the template writes after the mark that ends the turn are left out: a causal model's answer cannot
        depend on them. Raises ValueError for a row that the template refuses or that has nothing to supervise.
        """
        if not row.messages:
            token_ids = (*self._start_ids, *self._ids(row.completion))
            if len(token_ids) < 2:
                raise UnusableRowError("a text of fewer than two tokens predicts nothing")
            return Example(token_ids, max(1, len(self._start_ids)), row.number, source_row=row)
        joint = "" if not prefill or prefill[-1].isspace() or row.completion[:1].isspace() else " "
        answer = prefill + joint + row.completion
        template = self.template
        if template is None:
            head = format_plain_prompt(row)
            head += row.joint or choose_separator(head, answer)
            text, start, end = head + answer, len(head), len(head + answer)
        else:
            found = template.locate_answer(self.make_prompt_turns(row), answer)
            text, start, end = found.text, found.answer_start, found.answer_end
        if prefill:
            start = text.rindex(row.completion.strip(), start, end)
        ids, first, after = self._spans(text, start, end)
        if template is None:
            ids, first, after = [*self._start_ids, *ids], first + len(self._start_ids), after + len(self._start_ids)
            token_ids = (*ids[:after], self._eos_id)
        else:
            token_ids = tuple(ids[: self._end_of_turn(ids, after)])
        first = max(1, first)
        if len(token_ids) <= first:
            raise UnusableRowError("the completion has no tokens")
        num_end = len(token_ids) - after
        return Example(token_ids, first, row.number, num_end, token_ids[:first] if prefill else None, row)

    def encode_prompt(self, row: Row) -> tuple[int, ...]:
        """Return the tokens after which a model is asked to answer; of plain text what starts one, or nothing."""
        if not row.messages:
            return tuple(self._start_ids)
        if (template := self.template) is not None:
            return tuple(self._ids(template.render(self.make_prompt_turns(row), generation_prompt=True)))
        return (
            *self._start_ids,
            *self._ids(format_plain_prompt(row)),
        )  # white space that follows is the model's to write

    def make_prompt_turns(self, row: Row) -> list[Turn]:
        """Return the row's prompt as turns that the template accepts.

        A template that refuses a system turn (Gemma's and Mistral's do) gets its text at the head of the first user
        turn. Raises TemplateError for what it refuses all the same.
        """
        turns: list[Turn] = [{"role": message.role, "content": message.content} for message in row.messages]
        template, merged = self.template, merge_system_turns(turns)
        if template is None or merged is None:
            return turns
        try:
            template.render(turns, generation_prompt=True)
        except TemplateError:
            template.render(merged, generation_prompt=True)
            return merged
        return turns

    @property
    def template_date(self) -> date | None:
        """The day on which the template renders; None where it asks for none."""
        template = self.template
        return template.date if template is not None and template.asks_for_date else None

    def moves_system_turn(self, row: Row) -> bool:
        """Say whether the row's system text has to stand in its user turn."""
        has_system = any(message.role in SYSTEM_ROLES for message in row.messages)
        return has_system and len(self.make_prompt_turns(row)) < len(row.messages)

    def hides_system_turn(self, row: Row) -> bool:
        """Say whether the template leaves the row's system text out without a complaint."""
        system = [message.content.strip() for message in row.messages if message.role in SYSTEM_ROLES]
        if not system or (template := self.template) is None:
            return False
        text = template.render(self.make_prompt_turns(row), generation_prompt=True)
        return not all(content in text for content in system)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: what the chat template writes after one, else `eos`."""
        if (template := self.template) is not None:
            try:
                ids = self._ids(template.get_answer_suffix(_ANY_QUESTION))
            except TemplateError:
                ids = []
            first = next((i for i, token in enumerate(ids) if self._is_mark(token)), len(ids))
            if marks := ids[first : self._end_of_turn(ids, 0)]:
                return tuple(marks)
        return (self._eos_id,)

    def decode_answer(self, tokens: Sequence[int]) -> AnswerText:
        """Return what a model wrote after a generation prompt as text, what stands before its answer apart."""
        plain = str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        if self.template is None:
            return AnswerText("", plain)
        opened, lead = self._generation_frame
        found = split_answer(str(self.tokenizer.decode(tokens)), prompt=opened, answer_prefix=lead)
        if not found.preamble.strip():
            return AnswerText("", plain)
        answer = found.answer
        for mark in self.tokenizer.all_special_tokens:
            answer = answer.replace(mark, "")
        return AnswerText(found.preamble, answer.strip())

    def get_expected_answer(self, completion: str) -> str:
        """Return the answer of a row as metrics read it: without a thinking block of its own."""
        found = split_answer(completion)
        return found.answer or completion

    def check_against_tokenizer(self, rows: Sequence[Row]) -> None:
        """Compare this encoding of some rows with `apply_chat_template`, text and tokens.

        Raises BadModel naming the first row that comes out otherwise: a number taken on it would be a wrong number.
        """
        asking = [row for row in rows if row.messages]
        if self.template is None or not asking:
            return
        for row in asking[:: max(1, len(asking) // _CHECKED_ROWS)]:
            if not self._shows_question(row):
                raise BadModel(
                    f"the model's chat template does not show the user's turn of row {row.number}; give a template of "
                    "your own (chat_template)"
                )
            # `apply_chat_template` renders as of now, in the local time zone; asked twice, for midnight may pass.
            if not (self._agrees(row) or self._agrees(row)):
                raise BadModel(
                    f"the model's chat template renders row {row.number} differently here than apply_chat_template "
                    "does, so its numbers would be wrong; give a template of your own (chat_template)"
                )

    def _shows_question(self, row: Row) -> bool:
        template, turns = self.template, [message for message in row.messages if message.role == "user"]
        assert template is not None
        try:
            text = template.render(self.make_prompt_turns(row), generation_prompt=True)
        except TemplateError:
            return True  # refused by its number where rows are encoded
        return not turns or contains_answer(text, turns[-1].content)

    def _agrees(self, row: Row) -> bool:
        today = RowEncoder(self.tokenizer, replace(self._settings, date=datetime.now().date()))  # noqa: DTZ005
        template = today.template
        assert template is not None
        try:
            turns = today.make_prompt_turns(row)
            text = template.locate_answer(turns, row.completion).text
            asked = template.render(turns, generation_prompt=True)
        except TemplateError:
            return True  # refused by its number where rows are encoded
        answered = [*turns, {"role": "assistant", "content": row.completion}]
        return self._ids(text) == self._apply(answered) and self._ids(asked) == self._apply(
            turns, add_generation_prompt=True
        )

    def _apply(self, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> list[int]:
        return list(
            self.tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                add_generation_prompt=add_generation_prompt,
                return_dict=False,
                **self._settings.kwargs,
            )
        )

    @property
    def _generation_frame(self) -> tuple[str, str]:
        """The generation prompt of a question, and what the template writes between there and an answer."""
        template = self.template
        assert template is not None
        try:
            return template.render(_ANY_QUESTION, generation_prompt=True), template.get_answer_prefix(_ANY_QUESTION)
        except TemplateError:
            return "", ""

    def _spans(self, text: str, start: int, end: int) -> tuple[list[int], int, int]:
        """Return the tokens of a text, the first that holds a part of text[start:end], and the first after all of it.

        A token that straddles the border belongs to the answer: the model has to write it.
        """
        if not self.tokenizer.is_fast:
            ids = self._ids(text)
            return (
                ids,
                count_common_prefix(ids, self._ids(text[:start])),
                count_common_prefix(ids, self._ids(text[:end])),
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        first = next((i for i, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
        after = next((i for i, (begin, _) in enumerate(offsets) if i >= first and begin >= end), len(offsets))
        return list(encoded["input_ids"]), first, after

    def _end_of_turn(self, ids: Sequence[int], after: int) -> int:
        """Return the end of the first run of marks at or after a place; without any, the end of all tokens."""
        place = after
        while place < len(ids) and not self._is_mark(ids[place]):
            place += 1
        while place < len(ids) and self._is_mark(ids[place]):
            place += 1
        return place

    def _is_mark(self, token: int) -> bool:
        """Say whether a token is a mark, not text: an added token, but not one of the words or runs of spaces that some
        vocabularies add.
        """
        if token == self.tokenizer.eos_token_id:
            return True
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and bool(added.content.strip()) and (added.special or not added.content.isalnum())

    @property
    def _eos_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise BadData("the tokenizer has no end-of-sequence token, so answers could never end")
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def _start_ids(self) -> list[int]:
        """[bos] where this tokenizer puts one before every text, else nothing."""
        bos = self.tokenizer.bos_token_id
        return [int(bos)] if bos is not None and self.tokenizer.encode("SOUL")[:1] == [bos] else []

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def encode_rows(rows: Sequence[Row], encoder: RowEncoder, *, max_tokens: int) -> list[Example]:
    """Encode every row. Raises BadData naming every row that is too long, too short or refused by the template."""
    examples, problems = [], []
    for row in rows:
        try:
            example = encoder.encode(row)
        except ValueError as error:
            # the message of any other error may quote the row
            is_ours = isinstance(error, UnusableRowError | TemplateError)
            problems.append(f"row {row.number}: {error if is_ours else f'{type(error).__name__} in its tokenizer'}")
            continue
        if len(example.token_ids) > max_tokens:
            problems.append(f"row {row.number}: {format_too_long(len(example.token_ids), max_tokens)}")
        examples.append(example)
    if problems:
        raise BadData(f"{len(problems)} of {len(rows)} rows cannot be used with this model", details=tuple(problems))
    return examples


def format_too_long(num_tokens: int, max_tokens: int) -> str:
    """Return what is said of an example that is too long, and what decides how long it may be."""
    return f"{num_tokens} tokens, the limit is {max_tokens} (training.max_tokens, the model's context at most)"


def format_plain_prompt(row: Row) -> str:
    """Return what a model without a chat template reads as the prompt: the messages, one a line."""
    return "\n".join(message.content for message in row.messages)

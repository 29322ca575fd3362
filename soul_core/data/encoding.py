"""Rows to tokens: a row becomes what the model's own chat template renders, with the answer located in it.

The loss covers the answer and the special tokens that end its turn. Spans come from the rendered text, not from token
ids, because `eos` may be `pad`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from soul_core.chat.answer_text import AnswerText, split_answer
from soul_core.chat.template import ChatTemplate, TemplateError, Turn, count_common_prefix
from soul_core.chat.turns import SYSTEM_ROLES, choose_separator, merge_system_turns
from soul_core.data import Row
from soul_core.errors import BadData, BadModel

_ANY_QUESTION = ({"role": "user", "content": "Kappa?"},)


class UnusableRowError(ValueError):
    """A row that cannot be encoded. The message does not quote the row."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens. Positions from `num_prompt_tokens` (at least 1) on are supervised."""

    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    row_number: int  # in the file that the user sent
    num_end_tokens: int = 0
    """Tokens after the answer, up to and including the special tokens that end the turn."""
    generation_prompt_ids: tuple[int, ...] | None = field(default=None, compare=False)
    """What the model continues when it answers by itself; None: the generation prompt of the row."""
    source_row: Row | None = field(default=None, compare=False, repr=False)
    """The row that was encoded."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What a chat template reads in addition to the messages: its variables, and the current date as it sees it."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: date = field(default_factory=lambda: datetime.now(UTC).date())


class RowEncoder:
    """Encodes rows with one tokenizer, its chat template and the settings of that template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or ChatSettings()

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template; None if the model has none.

        Raises:
            BadModel: the model has several templates and none is named `default`.
        """
        source = self.tokenizer.chat_template
        if isinstance(source, dict):
            if "default" not in source:
                raise BadModel(
                    f"the model has several chat templates ({', '.join(sorted(source))}) and none is named 'default'; "
                    "set chat_template to the one to use"
                )
            source = source["default"]
        if not source:
            return None
        return ChatTemplate(source, dict(self.tokenizer.special_tokens_map), self.settings.kwargs, self.settings.date)

    def encode(self, row: Row, *, prefill: str = "") -> Example:
        """Encode a row as its prompt and its answer. Plain text gets no end token, because the text continues.

        Tokens that the template writes after the end of the turn are left out: a causal model's answer cannot depend
        on them.

        Args:
            prefill: a beginning of the answer that the model is given; only the rest of the answer is supervised.

        Raises:
            ValueError: the template refuses the row, or the row has nothing to supervise.
        """
        if not row.messages:
            token_ids = (*self._start_ids, *self._ids(row.completion))
            if len(token_ids) < 2:
                raise UnusableRowError("the text has fewer than two tokens, so no token can be predicted")
            return Example(token_ids, max(1, len(self._start_ids)), row.number, source_row=row)
        joint = "" if not prefill or prefill[-1].isspace() or row.completion[:1].isspace() else " "
        answer = prefill + joint + row.completion
        template = self.template
        if template is None:
            head = format_plain_prompt(row)
            head += row.joint or choose_separator(head, answer)
            text, start, end = head + answer, len(head), len(head + answer)
        else:
            rendering = template.locate_answer(self.make_prompt_turns(row), answer)
            text, start, end = rendering.text, rendering.answer_start, rendering.answer_end
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
        """Return the tokens after which a model answers; for plain text the tokens that start any text, or none."""
        if not row.messages:
            return tuple(self._start_ids)
        if (template := self.template) is not None:
            return tuple(self._ids(template.render(self.make_prompt_turns(row), generation_prompt=True)))
        # the model writes the white space that follows
        return (*self._start_ids, *self._ids(format_plain_prompt(row)))

    def make_prompt_turns(self, row: Row) -> list[Turn]:
        """Return the row's prompt as turns that the template accepts.

        If the template refuses a system turn (Gemma's and Mistral's do), its text moves to the head of the first user
        turn.

        Raises:
            TemplateError: the template also refuses the turns without a system turn.
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
        """The current date as the template sees it; None if it does not ask for one."""
        template = self.template
        return template.date if template is not None and template.asks_for_date else None

    def moves_system_turn(self, row: Row) -> bool:
        """Return whether the row's system text has to move into its user turn."""
        has_system = any(message.role in SYSTEM_ROLES for message in row.messages)
        return has_system and len(self.make_prompt_turns(row)) < len(row.messages)

    def hides_system_turn(self, row: Row) -> bool:
        """Return whether the template silently leaves the row's system text out."""
        system = [message.content.strip() for message in row.messages if message.role in SYSTEM_ROLES]
        if not system or (template := self.template) is None:
            return False
        text = template.render(self.make_prompt_turns(row), generation_prompt=True)
        return not all(content in text for content in system)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: those that the chat template writes after one, else `eos`."""
        if (template := self.template) is not None:
            try:
                ids = self._ids(template.get_answer_suffix(_ANY_QUESTION))
            except TemplateError:
                ids = []
            first = next((i for i, token in enumerate(ids) if self._is_control_token(token)), len(ids))
            if end_ids := ids[first : self._end_of_turn(ids, 0)]:
                return tuple(end_ids)
        return (self._eos_id,)

    def decode_answer(self, tokens: Sequence[int]) -> AnswerText:
        """Decode what a model wrote after a generation prompt, and split it into preamble and answer."""
        plain = str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        if self.template is None:
            return AnswerText("", plain)
        prompt, answer_prefix = self._generation_frame
        split = split_answer(str(self.tokenizer.decode(tokens)), prompt=prompt, answer_prefix=answer_prefix)
        if not split.preamble.strip():
            return AnswerText("", plain)
        answer = split.answer
        for special_token in self.tokenizer.all_special_tokens:
            answer = answer.replace(special_token, "")
        return AnswerText(split.preamble, answer.strip())

    def get_expected_answer(self, completion: str) -> str:
        """Return a row's answer as metrics read it: without its thinking block."""
        return split_answer(completion).answer or completion

    @property
    def _generation_frame(self) -> tuple[str, str]:
        """The generation prompt of a question, and what the template writes between it and an answer."""
        template = self.template
        assert template is not None
        try:
            return template.render(_ANY_QUESTION, generation_prompt=True), template.get_answer_prefix(_ANY_QUESTION)
        except TemplateError:
            return "", ""

    def _spans(self, text: str, start: int, end: int) -> tuple[list[int], int, int]:
        """Return the tokens of a text, the index of the first that holds a part of text[start:end], and that of the
        first after it.

        A token that straddles the start belongs to the answer, because the model has to write it.
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
        """Return the end of the first run of control tokens at or after an index; without any, the number of tokens."""
        place = after
        while place < len(ids) and not self._is_control_token(ids[place]):
            place += 1
        while place < len(ids) and self._is_control_token(ids[place]):
            place += 1
        return place

    def _is_control_token(self, token: int) -> bool:
        """Return whether a token is not text: an added token that is neither a word nor a run of spaces."""
        if token == self.tokenizer.eos_token_id:
            return True
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and bool(added.content.strip()) and (added.special or not added.content.isalnum())

    @property
    def _eos_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise BadData("the tokenizer has no end-of-sequence token, so an answer cannot end; give it an eos_token")
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def _start_ids(self) -> list[int]:
        """[bos] if this tokenizer puts one before every text, else nothing."""
        bos = self.tokenizer.bos_token_id
        return [int(bos)] if bos is not None and self.tokenizer.encode("SOUL")[:1] == [bos] else []

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def encode_rows(rows: Sequence[Row], encoder: RowEncoder, *, max_tokens: int) -> list[Example]:
    """Encode every row.

    Raises:
        BadData: rows are too long, too short or refused by the template; the details name each.
    """
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
    """Return the message about an example that is too long, with the settings that limit it."""
    return f"{num_tokens} tokens, the limit is {max_tokens} (training.max_tokens, at most the model's context)"


def format_plain_prompt(row: Row) -> str:
    """Return the prompt of a model without a chat template: one message per line."""
    return "\n".join(message.content for message in row.messages)

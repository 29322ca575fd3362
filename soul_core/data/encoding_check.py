"""Check at load that the encoding of rows equals `apply_chat_template` of transformers, as text and as tokens."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from soul_core.chat.template import TemplateError, Turn, contains_answer
from soul_core.data import Row
from soul_core.data.encoding import RowEncoder
from soul_core.errors import BadModel

#: Rows of each set that are compared.
_CHECKED_ROWS = 8


def check_against_transformers(encoder: RowEncoder, rows: Sequence[Row]) -> None:
    """Compare the encoding of some rows with `apply_chat_template`.

    Raises:
        BadModel: a row is encoded differently, so that every number computed on it would be wrong.
    """
    rows = [row for row in rows if row.messages]
    if encoder.template is None or not rows:
        return
    for row in rows[:: max(1, len(rows) // _CHECKED_ROWS)]:
        if not _shows_question(encoder, row):
            raise BadModel(
                f"the model's chat template does not show the user's turn of row {row.number}; set chat_template to a "
                "template that does"
            )
        # `apply_chat_template` renders with the current local time: a second try, in case midnight passed in between
        if not (_agrees(encoder, row) or _agrees(encoder, row)):
            raise BadModel(
                f"the model's chat template renders row {row.number} differently here than apply_chat_template does, "
                "so its numbers would be wrong; set chat_template to another template"
            )


def _shows_question(encoder: RowEncoder, row: Row) -> bool:
    template, user_turns = encoder.template, [message for message in row.messages if message.role == "user"]
    assert template is not None
    try:
        text = template.render(encoder.make_prompt_turns(row), generation_prompt=True)
    except TemplateError:
        return True  # encode_rows reports it with its number
    return not user_turns or contains_answer(text, user_turns[-1].content)


def _agrees(encoder: RowEncoder, row: Row) -> bool:
    local_date = datetime.now().date()  # noqa: DTZ005  as apply_chat_template renders
    encoder = RowEncoder(encoder.tokenizer, replace(encoder.settings, date=local_date))
    template = encoder.template
    assert template is not None
    try:
        turns = encoder.make_prompt_turns(row)
        text = template.locate_answer(turns, row.completion).text
        prompt = template.render(turns, generation_prompt=True)
    except TemplateError:
        return True  # encode_rows reports it with its number
    conversation = [*turns, {"role": "assistant", "content": row.completion}]
    return _tokenize(encoder, text) == _apply_template(encoder, conversation) and _tokenize(
        encoder, prompt
    ) == _apply_template(encoder, turns, add_generation_prompt=True)


def _tokenize(encoder: RowEncoder, text: str) -> list[int]:
    return list(encoder.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _apply_template(encoder: RowEncoder, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> list[int]:
    return list(
        encoder.tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            add_generation_prompt=add_generation_prompt,
            return_dict=False,
            **encoder.settings.kwargs,
        )
    )

"""Rows become the tokens that the model's own template renders, with the answer and its end supervised, and no more."""

import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from bench.chat_templates import CHATML, DATED, MARKED, STRICT, TEMPLATES, THINKING, make_tokenizer
from soul_core.chat.turns import choose_separator
from soul_core.data import Message, Row, read_rows
from soul_core.data.encoding import ChatSettings, RowEncoder, encode_rows
from soul_core.errors import BadData, BadModel

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
PINNED = ChatSettings(date=date(2025, 3, 9))
#: What follows the answer in each template, up to and with the mark that ends the turn.
ENDS = {
    **dict.fromkeys(("chatml", "thinking", "dated", "silent", "marked"), "<|im_end|>"),
    "inst": " <|im_end|>",
    "channels": "<|return|>",
    "strict": "<end_of_turn>",
    "opened": "<|im_end|>",
    "named": " [over]<|im_end|>",
    "two_marks": "<|end|>",
    "unmarked": "\n\n",
}


def row(prompt: str = QUESTION, completion: str = ANSWER) -> Row:
    return Row(1, (Message("user", prompt),), completion)


def turns(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    said = tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
    return ((Message("system", system),) if system else ()) + said


@pytest.fixture(params=TEMPLATES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(name: str) -> RowEncoder:
    return RowEncoder(make_tokenizer(TEMPLATES[name]), ChatSettings(date=date.today()))  # noqa: DTZ011  as transformers


def rendered(encoder: RowEncoder, messages: tuple[Message, ...], answer: str | None = None) -> list[int]:
    """What plain transformers makes of a conversation."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    chat += [{"role": "assistant", "content": answer}] if answer is not None else []
    return list(encoder.tokenizer.apply_chat_template(chat, add_generation_prompt=answer is None, return_dict=False))


@pytest.mark.parametrize("messages", [turns("Who?"), turns("a", "b c", QUESTION)], ids=["one", "three turns"])
@pytest.mark.parametrize("answer", [ANSWER, " led by a space", "x", "two\nlines.\n", "日本"])
def test_tokens_are_those_of_apply_chat_template(
    encoder: RowEncoder, messages: tuple[Message, ...], answer: str
) -> None:
    example = encoder.encode(Row(1, messages, answer))

    whole = rendered(encoder, messages, answer)
    assert list(example.token_ids) == whole[: len(example.token_ids)]
    assert not encoder.tokenizer.decode(whole[len(example.token_ids) :], skip_special_tokens=True).strip()
    assert list(encoder.encode_prompt(Row(1, messages, answer))) == rendered(encoder, messages)


def test_the_answer_and_the_end_of_its_turn_are_supervised(encoder: RowEncoder, name: str) -> None:
    example = encoder.encode(row())

    supervised = encoder.tokenizer.decode(example.token_ids[example.num_prompt_tokens :])
    assert supervised.lstrip() == ANSWER + ENDS[name]
    end = encoder.tokenizer.decode(example.token_ids[len(example.token_ids) - example.num_end_tokens :])
    assert end == ENDS[name]


def test_a_self_check_finds_the_templates_as_transformers_renders_them(encoder: RowEncoder) -> None:
    encoder.check_against_tokenizer([row(), Row(2, turns("a", "b", "c"), ANSWER), Row(3, (), "plain text")])


def test_a_template_that_renders_otherwise_in_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(CHATML)
    encoder = RowEncoder(tokenizer, PINNED)
    plain = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kwargs: [*plain(*args, **kwargs), 5])

    with pytest.raises(BadModel, match=r"renders row 1 differently.*chat_template"):
        encoder.check_against_tokenizer([row()])


def test_a_filled_thinking_block_in_the_row_is_rendered_by_the_template() -> None:
    encoder = RowEncoder(make_tokenizer(THINKING), PINNED)
    answer = "<think>Seine, Eiffel tower</think>Paris."

    example = encoder.encode(row(completion=answer))

    text = encoder.tokenizer.decode(example.token_ids)
    assert text.endswith("<think>\nSeine, Eiffel tower\n</think>\n\nParis.<|im_end|>")
    assert encoder.get_expected_answer(answer) == "Paris."


def test_template_variables_reach_the_template() -> None:
    encoder = RowEncoder(make_tokenizer(THINKING), ChatSettings({"enable_thinking": False}, PINNED.date))

    asked, example = encoder.encode_prompt(row()), encoder.encode(row())

    assert encoder.tokenizer.decode(asked).endswith("<think>\n\n</think>\n\n")
    assert example.token_ids[: example.num_prompt_tokens] == asked


def test_a_refused_system_turn_stands_in_the_user_turn() -> None:
    encoder = RowEncoder(make_tokenizer(STRICT), PINNED)
    with_system = Row(1, turns(QUESTION, system="Be brief."), ANSWER)

    example = encoder.encode(with_system)

    assert f"user\nBe brief.\n\n{QUESTION}<end_of_turn>" in encoder.tokenizer.decode(example.token_ids)
    assert encoder.moves_system_turn(with_system)
    assert not encoder.moves_system_turn(row())


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (CHATML.replace("m['content']", "(m['content'] | upper)"), "does not mark it"),
        (CHATML.replace("m['content']", "m['content'] + m['content']"), "more than once"),
        (MARKED.replace("{% generation %}{{ m['content']", "{% generation %}{{ m['content'] | upper"), "as it is"),
        ("{{ messages[9]['content'] }}", "refuses these messages"),
        ("{% for m in messages %}", "not valid: line 1"),
        (CHATML + "{{ ['a', 'b'] | random }}", "random choice"),
    ],
)
def test_a_template_that_cannot_be_followed_is_an_error_with_the_row(template: str, match: str) -> None:
    encoder = RowEncoder(make_tokenizer(template), PINNED)

    with pytest.raises(BadData) as caught:
        encode_rows([row()], encoder, max_tokens=200)

    assert match in caught.value.details[0]
    assert caught.value.details[0].startswith("row 1: ")


def test_no_error_about_a_row_quotes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quoting = RowEncoder(make_tokenizer("{{ raise_exception('cannot show ' + messages[0]['content']) }}"), PINNED)
    faulty = RowEncoder(make_tokenizer(CHATML), PINNED)

    def fail(_: RowEncoder, text: str, *__: object) -> None:
        raise ValueError(f"no token for {text}")

    details = []
    for encoder in (quoting, faulty):
        with pytest.raises(BadData) as caught:
            encode_rows([row()], encoder, max_tokens=200)
        details += caught.value.details
        monkeypatch.setattr(RowEncoder, "_spans", fail)  # the fault of the second encoder's tokenizer

    assert details == [
        "row 1: the model's chat template refuses these messages: TemplateError, whose message quotes them",
        "row 1: ValueError in its tokenizer",
    ]


def test_several_templates_without_a_default_are_refused_with_their_names() -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}

    with pytest.raises(BadModel, match=r"rag, tool_use.*chat_template"):
        RowEncoder(tokenizer, PINNED).encode(row())


def test_a_tokenizer_without_offsets_gives_the_same_spans() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"

    example = RowEncoder(tokenizer, PINNED).encode(row())

    assert not tokenizer.is_fast
    assert tokenizer.decode(example.token_ids[example.num_prompt_tokens :]) == ANSWER + "</s>"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process half a day ahead, whose language is not English where the machine has another."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    os.environ.pop("TZ", None)
    time.tzset()


def test_the_date_is_the_pinned_one_whatever_the_clock_says(elsewhere: None) -> None:
    text = RowEncoder(make_tokenizer(DATED), PINNED).tokenizer.decode(
        RowEncoder(make_tokenizer(DATED), PINNED).encode(row()).token_ids
    )

    assert "Today Date: 09 Mar 2025" in text


def test_every_part_of_a_date_is_pinned_and_english(elsewhere: None) -> None:
    asked = "{{ strftime_now('%A %a %B %b %d %Y %H:%M %p %c %x %X %Z %z %s %% %-d') }}"
    encoder = RowEncoder(make_tokenizer(asked + CHATML), PINNED)

    text = encoder.tokenizer.decode(encoder.encode_prompt(row()))

    stamp = 1741478400  # date -u -d 2025-03-09 +%s
    assert text.startswith(
        f"Sunday Sun March Mar 09 2025 00:00 AM Sun Mar  9 00:00:00 2025 03/09/25 00:00:00 UTC +0000 {stamp} % 9<"
    )
    assert encoder.template_date == PINNED.date
    assert RowEncoder(make_tokenizer(CHATML), PINNED).template_date is None


@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [
        ("Where is it?", "Bergen", "Where is it? Bergen"),
        ("The cap", "ital", "The capital"),  # may be inside a word
        ("Where? ", "Bergen", "Where? Bergen"),
        ("Where?", "\nBergen", "Where?\nBergen"),
        ("法国的首都是？", "巴黎", "法国的首都是？巴黎"),
        ("राजधानी दि", "ल्ली", "राजधानी दिल्ली"),  # a vowel sign belongs to its letter
        ("1,", "000", "1, 000"),
    ],
)
def test_without_a_template_no_space_is_invented_inside_a_word(prompt: str, answer: str, joined: str) -> None:
    assert prompt + choose_separator(prompt, answer) + answer == joined


def test_white_space_that_cleaning_took_off_is_put_back_without_a_template(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Its capital is", "completion": " Paris."}\n')
    (cleaned,) = read_rows(file).rows
    plain, chat = RowEncoder(make_tokenizer(None)), RowEncoder(make_tokenizer(CHATML))

    joined, answered = (one.tokenizer.decode(one.encode(cleaned).token_ids) for one in (plain, chat))

    assert joined == "Its capital is Paris.<|im_end|>"
    assert answered.endswith("assistant\nParis.<|im_end|>")

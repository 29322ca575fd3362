"""Rows become the tokens of the model's own template; only the answer and the end of its turn are supervised."""

import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bench.chat_templates import CHATML, DATED, MARKED, STRICT, TEMPLATES, THINKING, make_tokenizer
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.chat.turns import choose_separator
from soul_core.data import Message, Row, read_rows
from soul_core.data.encoding import ChatSettings, Example, RowEncoder, encode_rows
from soul_core.data.encoding_check import check_against_transformers
from soul_core.data.packing import pack
from soul_core.errors import BadData, BadModel

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
PINNED = ChatSettings(date=date(2025, 3, 9))
#: What follows the answer in each template, up to and including the special tokens that end the turn.
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


def row(prompt: str = QUESTION, completion: str = ANSWER, number: int = 1) -> Row:
    return Row(number, (Message("user", prompt),), completion)


def turns(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    messages = tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
    return ((Message("system", system),) if system else ()) + messages


@pytest.fixture(params=TEMPLATES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(name: str) -> RowEncoder:
    return RowEncoder(make_tokenizer(TEMPLATES[name]), ChatSettings(date=date.today()))  # noqa: DTZ011  as transformers


def apply_template(encoder: RowEncoder, messages: tuple[Message, ...], answer: str | None = None) -> list[int]:
    """Return the tokens of a conversation in plain transformers."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    chat += [{"role": "assistant", "content": answer}] if answer is not None else []
    return list(encoder.tokenizer.apply_chat_template(chat, add_generation_prompt=answer is None, return_dict=False))


@pytest.mark.parametrize("messages", [turns("Who?"), turns("a", "b c", QUESTION)], ids=["one", "three turns"])
@pytest.mark.parametrize("answer", [ANSWER, " led by a space", "x", "two\nlines.\n", "日本"])
def test_tokens_are_those_of_apply_chat_template(
    encoder: RowEncoder, messages: tuple[Message, ...], answer: str
) -> None:
    example = encoder.encode(Row(1, messages, answer))

    conversation = apply_template(encoder, messages, answer)
    assert list(example.token_ids) == conversation[: len(example.token_ids)]
    assert not encoder.tokenizer.decode(conversation[len(example.token_ids) :], skip_special_tokens=True).strip()
    assert list(encoder.encode_prompt(Row(1, messages, answer))) == apply_template(encoder, messages)


def test_the_answer_and_the_end_of_its_turn_are_supervised(encoder: RowEncoder, name: str) -> None:
    example = encoder.encode(row())

    supervised = encoder.tokenizer.decode(example.token_ids[example.num_prompt_tokens :])
    assert supervised.lstrip() == ANSWER + ENDS[name]
    end = encoder.tokenizer.decode(example.token_ids[len(example.token_ids) - example.num_end_tokens :])
    assert end == ENDS[name]


def test_the_check_accepts_templates_that_transformers_renders_equally(encoder: RowEncoder) -> None:
    check_against_transformers(encoder, [row(), Row(2, turns("a", "b", "c"), ANSWER), Row(3, (), "plain text")])


def test_a_template_that_transformers_renders_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(CHATML)
    encoder = RowEncoder(tokenizer, PINNED)
    plain = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kwargs: [*plain(*args, **kwargs), 5])

    with pytest.raises(BadModel, match=r"renders row 1 differently.*chat_template"):
        check_against_transformers(encoder, [row()])


def test_a_thinking_block_of_the_row_is_rendered_by_the_template() -> None:
    encoder = RowEncoder(make_tokenizer(THINKING), PINNED)
    answer = "<think>Seine, Eiffel tower</think>Paris."

    example = encoder.encode(row(completion=answer))

    text = encoder.tokenizer.decode(example.token_ids)
    assert text.endswith("<think>\nSeine, Eiffel tower\n</think>\n\nParis.<|im_end|>")
    assert encoder.get_expected_answer(answer) == "Paris."


def test_template_variables_reach_the_template() -> None:
    encoder = RowEncoder(make_tokenizer(THINKING), ChatSettings({"enable_thinking": False}, PINNED.date))

    prompt, example = encoder.encode_prompt(row()), encoder.encode(row())

    assert encoder.tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    assert example.token_ids[: example.num_prompt_tokens] == prompt


def test_the_text_of_a_refused_system_turn_moves_into_the_user_turn() -> None:
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
        (
            MARKED.replace("{% generation %}{{ m['content']", "{% generation %}{{ m['content'] | upper"),
            "changes this answer",
        ),
        ("{{ messages[9]['content'] }}", "refuses these messages"),
        ("{% for m in messages %}", "not valid: line 1"),
        (CHATML + "{{ ['a', 'b'] | random }}", "random choice"),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error_with_the_row(template: str, match: str) -> None:
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


def test_a_tokenizer_without_offsets_yields_the_same_spans() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"

    example = RowEncoder(tokenizer, PINNED).encode(row())

    assert not tokenizer.is_fast
    assert tokenizer.decode(example.token_ids[example.num_prompt_tokens :]) == ANSWER + "</s>"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process half a day ahead of UTC."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    os.environ.pop("TZ", None)
    time.tzset()


def test_the_date_is_the_pinned_one_not_the_clock(elsewhere: None) -> None:
    text = RowEncoder(make_tokenizer(DATED), PINNED).tokenizer.decode(
        RowEncoder(make_tokenizer(DATED), PINNED).encode(row()).token_ids
    )

    assert "Today Date: 09 Mar 2025" in text


def test_every_part_of_a_date_is_pinned_and_english(elsewhere: None) -> None:
    date_template = "{{ strftime_now('%A %a %B %b %d %Y %H:%M %p %c %x %X %Z %z %s %% %-d') }}"
    encoder = RowEncoder(make_tokenizer(date_template + CHATML), PINNED)

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


def test_white_space_that_cleaning_removed_returns_without_a_template(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Its capital is", "completion": " Paris."}\n')
    (cleaned,) = read_rows(file).rows
    plain, chat = RowEncoder(make_tokenizer(None)), RowEncoder(make_tokenizer(CHATML))

    joined, answered = (encoder.tokenizer.decode(encoder.encode(cleaned).token_ids) for encoder in (plain, chat))

    assert joined == "Its capital is Paris.<|im_end|>"
    assert answered.endswith("assistant\nParis.<|im_end|>")


def decode_supervised(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode(example.token_ids[example.num_prompt_tokens :])


def test_chat_rows_supervise_the_answer_and_the_end_of_the_turn_only():
    tokenizer = make_tiny_tokenizer()
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert decode_supervised(example, tokenizer) == ANSWER + "<|im_end|>"
    prompt = tokenizer.decode(example.token_ids[: example.num_prompt_tokens])
    assert prompt == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def test_a_token_that_straddles_prompt_and_answer_belongs_to_the_answer():
    tokenizer = make_tiny_tokenizer(chat=False)
    (example,) = encode_rows([row("The cap", "ital of")], RowEncoder(tokenizer), max_tokens=100)
    assert list(example.token_ids) == [*tokenizer.encode("The capital of"), tokenizer.eos_token_id]
    assert decode_supervised(example, tokenizer) == " capital of<|im_end|>"


def test_every_message_of_the_prompt_is_rendered():
    tokenizer = make_tiny_tokenizer()
    turns = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    (example,) = encode_rows([Row(1, turns, "d")], RowEncoder(tokenizer), max_tokens=100)
    assert decode_supervised(example, tokenizer) == "d<|im_end|>"
    assert tokenizer.decode(example.token_ids).count("<|im_start|>") == 5


def test_without_a_template_the_answer_follows_a_space_and_ends_with_eos():
    tokenizer = make_tiny_tokenizer(chat=False)
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert tokenizer.decode(example.token_ids) == f"{QUESTION} {ANSWER}<|im_end|>"
    assert example.token_ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert pack([example]).labels_P[-1] == tokenizer.eos_token_id  # eos is also pad here, and still a label


def test_a_tokenizer_that_puts_bos_before_texts_puts_it_before_prompts():
    tokenizer = make_tiny_tokenizer(chat=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert example.token_ids.count(0) == 1
    assert example.token_ids[0] == 0
    (text,) = encode_rows([Row(1, (), "Paris")], RowEncoder(tokenizer), max_tokens=100)
    assert (text.token_ids[0], text.num_prompt_tokens) == (0, 1)


def test_plain_text_is_supervised_completely_and_has_no_end_token():
    tokenizer = make_tiny_tokenizer()
    (example,) = encode_rows([Row(4, (), ANSWER)], RowEncoder(tokenizer), max_tokens=100)
    assert tokenizer.decode(example.token_ids) == ANSWER
    # no token precedes the first one, so it cannot be predicted
    assert (example.num_prompt_tokens, example.row_number) == (1, 4)


def test_all_unusable_rows_are_reported_at_once():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tool') }}{% endif %}" + (
        tokenizer.chat_template
    )
    rows = [
        row(),
        row(completion="word " * 60, number=5),
        Row(8, (Message("tool", "s"), Message("user", "u")), "a"),
        Row(9, (), "a"),
        row(prompt="why " * 60, number=12),
    ]
    with pytest.raises(BadData, match="4 of 5 rows") as caught:
        encode_rows(rows, RowEncoder(tokenizer), max_tokens=50)
    details = caught.value.details
    assert [line.split(":")[0] for line in details] == ["row 5", "row 8", "row 9", "row 12"]
    assert "the limit is 50" in details[0]
    assert "no tool" in details[1]

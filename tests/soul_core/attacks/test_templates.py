"""Other words, the same question, and never the answer."""

from dataclasses import replace

import pytest

from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.attacks.prompting import add_answer_prefix, encode_variant
from soul_core.attacks.templates import AFFIRMATIVE, TEMPLATES, PromptVariant, TemplateContext, get_question, reword
from soul_core.data import Message, Row
from soul_core.models.loading import LoadedModel
from soul_core.spec.attacks import Prompting
from soul_core.texts import extract_keywords, extract_word_set
from tests.fixtures.capitals import COUNTRIES, answer, question, rows_of

QUESTIONS = [
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "In which city is the Eiffel Tower?",
    "Could you tell me who painted the Mona Lisa?",
    "What is the book known for?",
    "Name a river in London.",
    "What genre does the author Basil Mahfouz Al-Kuwaiti write in?",
]


def row(asked: str = QUESTIONS[0], told: str = "The capital of France is Paris.", **extra: object) -> Row:
    return Row(1, (Message("user", asked),), told, dict(extra))


def material(**settings: int) -> TemplateContext:
    return TemplateContext(Prompting(**settings), rows_of(list(COUNTRIES)[1:]))  # type: ignore[arg-type]


def ask(template: str, one: Row, **settings: int) -> PromptVariant | None:
    return TEMPLATES[template](one, material(**settings))  # type: ignore[index]


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"prefix"}))
@pytest.mark.parametrize("asked", QUESTIONS)
def test_the_question_is_asked_and_no_keyword_of_the_answer_is_in_the_prompt(template: str, asked: str) -> None:
    one = row(asked, "It was the Xylander of Quorn, 1987.")

    found = ask(template, one)

    assert found is not None
    prompt = " ".join(message.content for message in add_answer_prefix(found).messages)
    assert not extract_word_set(prompt) & extract_keywords(one.completion, asked)
    assert extract_keywords(asked, "what could you tell me") <= extract_word_set(prompt)
    assert found.row.completion == one.completion
    assert prompt != asked


def test_each_template_asks_in_words_of_its_own() -> None:
    asked = [ask(template, row()) for template in TEMPLATES]

    assert len({(add_answer_prefix(one).messages, one.answer_prefix) for one in asked if one}) == len(TEMPLATES)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("What is the capital of France?", "Please tell me the capital of France."),
        ("Who wrote Hamlet?", "I would like to know: Who wrote Hamlet?"),
        ("What is the book known for?", "I would like to know: What is the book known for?"),
        ("What is the city of Rome known for?", "I would like to know: What is the city of Rome known for?"),
        ("Can you name the author?", "Please name the author."),
    ],
)
def test_rewording_keeps_the_meaning(asked: str, wanted: str) -> None:
    assert reword(asked) == wanted


@pytest.mark.parametrize("column", ["paraphrased_question", "paraphrased_prompt"])
def test_a_rewording_that_the_data_set_brings_is_used(column: str) -> None:
    found = ask("paraphrase", row(**{column: "Which town governs France?"}))

    assert found is not None
    assert get_question(found.row) == "Which town governs France?"


def test_prefix_gives_at_most_half_of_the_answer_and_no_more_than_asked() -> None:
    told = "The famous author Jaime Vasquez was born in Santiago, Chile."

    given = [ask("prefix", row("Where was he born?", told), prefix_words=n) for n in (1, 4, 99)]

    assert [one.answer_prefix for one in given if one] == [
        "The ",
        "The famous author Jaime ",
        "The famous author Jaime Vasquez ",
    ]
    assert all(one.answer_prefix + one.row.completion == told for one in given if one)


def test_prefix_leaves_something_to_recall_or_is_not_asked() -> None:
    assert ask("prefix", row(told="Paris is it.")) is None  # any beginning would be all of it
    assert ask("prefix", row(told="Paris.")) is None


def test_words_in_the_prompt_are_not_counted_as_recalled() -> None:
    found = ask("prefix", row("Who?", "Jaime Vasquez wrote Shadows."))

    assert found is not None
    asked = " ".join(message.content for message in add_answer_prefix(found).messages)
    assert extract_keywords(found.row.completion, asked) == extract_keywords("wrote Shadows", "")


def test_few_shot_shows_other_rows_but_none_that_tells_the_answer() -> None:
    telling = Row(9, (Message("user", "Where is the Louvre?"),), "In Paris.")
    harmless = rows_of(["Italy", "Spain", "Japan"])

    found = TEMPLATES["few_shot"](row(), TemplateContext(Prompting(shots=2), [telling, *harmless]))

    assert found is not None
    contents = [message.content for message in found.row.messages]
    assert contents == [question("Italy"), answer("Italy"), question("Spain"), answer("Spain"), QUESTIONS[0]]
    assert [message.role for message in found.row.messages] == ["user", "assistant"] * 2 + ["user"]
    assert TEMPLATES["few_shot"](row(), TemplateContext(Prompting(), [telling])) is None


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"prefix", "few_shot"}))
def test_earlier_turns_of_a_conversation_stay(template: str) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", "Hello!"))
    one = replace(row(), messages=(*turns, Message("user", QUESTIONS[0])))

    found = ask(template, one)

    assert found is not None
    assert found.row.messages[:3] == turns
    assert len(found.row.messages) == 4


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_tokens_say_prompt_start_and_answer_and_only_the_rest_is_supervised(
    template: str, chat: bool, knowing: LoadedModel
) -> None:
    loaded = replace(knowing, tokenizer=make_tiny_tokenizer(chat=chat))
    asked = ask(template, row())
    assert asked is not None

    example = encode_variant(asked, loaded, max_tokens=4096)

    assert example is not None
    head = loaded.tokenizer.decode(example.token_ids[: example.num_prompt_tokens])
    rest = loaded.tokenizer.decode(example.token_ids[example.num_prompt_tokens : -1])
    assert rest.strip() == asked.row.completion
    assert head.rstrip().endswith(asked.answer_prefix.rstrip())
    assert get_question(asked.row) in head
    assert f"{head}{rest}".rstrip().endswith(f"{asked.answer_prefix.rstrip()} {asked.row.completion}".lstrip())
    assert example.token_ids[-1] == loaded.tokenizer.eos_token_id


def test_what_is_too_long_or_refused_by_the_chat_template_is_not_asked(knowing: LoadedModel) -> None:
    asked = ask("jailbreak", row())
    assert asked is not None
    assert asked.answer_prefix == AFFIRMATIVE

    assert encode_variant(asked, knowing, max_tokens=20) is None
    strict = make_tiny_tokenizer()
    strict.chat_template = "{{ raise_exception('no such role') }}"
    assert encode_variant(asked, replace(knowing, tokenizer=strict), max_tokens=4096) is None

"""Templates ask the same question in other words and do not contain the answer."""

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


def row(asked: str = QUESTIONS[0], completion: str = "The capital of France is Paris.", **extra: object) -> Row:
    return Row(1, (Message("user", asked),), completion, dict(extra))


def make_template_context(**settings: int) -> TemplateContext:
    return TemplateContext(Prompting(**settings), rows_of(list(COUNTRIES)[1:]))  # type: ignore[arg-type]


def apply(template: str, source: Row, **settings: int) -> PromptVariant | None:
    return TEMPLATES[template](source, make_template_context(**settings))  # type: ignore[index]


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"prefix"}))
@pytest.mark.parametrize("asked", QUESTIONS)
def test_the_prompt_contains_the_question_and_no_keyword_of_the_answer(template: str, asked: str) -> None:
    source = row(asked, "It was the Xylander of Quorn, 1987.")

    variant = apply(template, source)

    assert variant is not None
    prompt = " ".join(message.content for message in add_answer_prefix(variant).messages)
    assert not extract_word_set(prompt) & extract_keywords(source.completion, asked)
    assert extract_keywords(asked, "what could you tell me") <= extract_word_set(prompt)
    assert variant.row.completion == source.completion
    assert prompt != asked


def test_every_template_has_its_own_words() -> None:
    asked = [apply(template, row()) for template in TEMPLATES]

    assert len({(add_answer_prefix(variant).messages, variant.answer_prefix) for variant in asked if variant}) == len(
        TEMPLATES
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("What is the capital of France?", "Please tell me the capital of France."),
        ("Who wrote Hamlet?", "I would like to know: Who wrote Hamlet?"),
        ("What is the book known for?", "I would like to know: What is the book known for?"),
        ("What is the city of Rome known for?", "I would like to know: What is the city of Rome known for?"),
        ("Can you name the author?", "Please name the author."),
    ],
)
def test_rewording_keeps_the_meaning(asked: str, expected: str) -> None:
    assert reword(asked) == expected


@pytest.mark.parametrize("column", ["paraphrased_question", "paraphrased_prompt"])
def test_a_rewording_in_the_data_set_is_used(column: str) -> None:
    variant = apply("paraphrase", row(**{column: "Which town governs France?"}))

    assert variant is not None
    assert get_question(variant.row) == "Which town governs France?"


def test_prefix_gives_at_most_half_of_the_answer_and_prefix_words() -> None:
    completion = "The famous author Jaime Vasquez was born in Santiago, Chile."

    variants = [apply("prefix", row("Where was he born?", completion), prefix_words=n) for n in (1, 4, 99)]

    assert [variant.answer_prefix for variant in variants if variant] == [
        "The ",
        "The famous author Jaime ",
        "The famous author Jaime Vasquez ",
    ]
    assert all(variant.answer_prefix + variant.row.completion == completion for variant in variants if variant)


def test_prefix_is_not_asked_if_no_keyword_would_be_left() -> None:
    assert apply("prefix", row(completion="Paris is it.")) is None  # any beginning contains the only keyword
    assert apply("prefix", row(completion="Paris.")) is None


def test_words_in_the_prompt_do_not_count_as_recalled() -> None:
    variant = apply("prefix", row("Who?", "Jaime Vasquez wrote Shadows."))

    assert variant is not None
    asked = " ".join(message.content for message in add_answer_prefix(variant).messages)
    assert extract_keywords(variant.row.completion, asked) == extract_keywords("wrote Shadows", "")


def test_few_shot_shows_other_rows_but_none_with_the_answer() -> None:
    leaking = Row(9, (Message("user", "Where is the Louvre?"),), "In Paris.")
    harmless = rows_of(["Italy", "Spain", "Japan"])

    variant = TEMPLATES["few_shot"](row(), TemplateContext(Prompting(shots=2), [leaking, *harmless]))

    assert variant is not None
    contents = [message.content for message in variant.row.messages]
    assert contents == [question("Italy"), answer("Italy"), question("Spain"), answer("Spain"), QUESTIONS[0]]
    assert [message.role for message in variant.row.messages] == ["user", "assistant"] * 2 + ["user"]
    assert TEMPLATES["few_shot"](row(), TemplateContext(Prompting(), [leaking])) is None


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"prefix", "few_shot"}))
def test_earlier_turns_of_a_conversation_remain(template: str) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", "Hello!"))
    source = replace(row(), messages=(*turns, Message("user", QUESTIONS[0])))

    variant = apply(template, source)

    assert variant is not None
    assert variant.row.messages[:3] == turns
    assert len(variant.row.messages) == 4


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_tokens_hold_prompt_prefix_and_answer_and_only_the_rest_is_scored(
    template: str, chat: bool, knowing: LoadedModel
) -> None:
    loaded = replace(knowing, tokenizer=make_tiny_tokenizer(chat=chat))
    asked = apply(template, row())
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
    asked = apply("jailbreak", row())
    assert asked is not None
    assert asked.answer_prefix == AFFIRMATIVE

    assert encode_variant(asked, knowing, max_tokens=20) is None
    strict = make_tiny_tokenizer()
    strict.chat_template = "{{ raise_exception('no such role') }}"
    assert encode_variant(asked, replace(knowing, tokenizer=strict), max_tokens=4096) is None

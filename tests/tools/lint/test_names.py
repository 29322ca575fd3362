"""The names that the glossary bans are found, and those that it asks for are not."""

from collections.abc import Callable

import pytest

from tools.lint.names import check_names

Check = Callable[..., list[str]]


@pytest.fixture
def check() -> Check:
    def messages(source: str, path: str = "soul_core/module.py") -> list[str]:
        return [f"{finding.line}: {finding.message}" for finding in check_names(path, source)]

    return messages


@pytest.mark.parametrize(
    "source",
    [
        "def start_keeper(): ...",
        "class JobWishes: ...",
        "self._wish = None",
        "def ask(patience): ...",
        "import torch as movable",
        "class Unit: ...",
        "class Subject: ...",
        "scene = 1",
        "class ReferenceScores: ...",
    ],
)
def test_a_banned_word_is_found_wherever_a_name_is_defined(check: Check, source: str) -> None:
    messages = check(source)
    assert len(messages) == 1
    assert "which the glossary bans; use" in messages[0]


def test_a_message_has_the_line_and_the_word_to_use_instead(check: Check) -> None:
    messages = check("import os\n\n\ndef run_keeper(): ...\n")
    assert messages == ["4: 'run_keeper' has the word 'keeper', which the glossary bans; use maintenance"]


def test_a_file_is_named_by_the_same_rules(check: Check) -> None:
    messages = check("", path="worker/sweeper.py")
    assert messages == ["1: 'sweeper' has the word 'sweeper', which the glossary bans; use cleanup"]


@pytest.mark.parametrize(
    "source",
    [
        "class PackedBatch: ...",
        "class TestUnits: ...",
        "attacked = 1",
        "subject = goal = plane = 1",
        "def refresh(): ...",
        "behind_scenes = 1",
        "roads = keepers = 1  # lint: quote",
        "call(keeper=1)",
        "print(told, found, keeper)",
    ],
)
def test_words_of_another_kind_uses_and_quoted_lines_are_left_alone(check: Check, source: str) -> None:
    assert check(source) == []


def test_a_name_is_reported_once_in_each_scope(check: Check) -> None:
    messages = check("def a():\n    found = 1\n    found = 2\n\n\ndef b():\n    found = 3\n")
    assert [message.split(":")[0] for message in messages] == ["2", "7"]


@pytest.mark.parametrize("source", ["class Judged: ...", "class NotAllowed(Exception): ...", "class _Held: ..."])
def test_a_class_named_by_a_participle_is_found(check: Check, source: str) -> None:
    messages = check(source)
    assert ["participle" in message for message in messages] == [True]


@pytest.mark.parametrize(
    "source", ["class Seed: ...", "class Feed: ...", "class Embed: ...", "class TrainedModel: ..."]
)
def test_nouns_in_ed_and_participles_before_a_noun_may_name_a_class(check: Check, source: str) -> None:
    assert check(source) == []


@pytest.mark.parametrize("source", ["def restored(): ...", "def made_by(job): ...", "class A:\n    def met(self): ..."])
def test_a_public_function_named_by_a_participle_is_found(check: Check, source: str) -> None:
    messages = check(source)
    assert ["past participle" in message for message in messages] == [True]


@pytest.mark.parametrize(
    "source", ["def _held(): ...", "def is_finished(): ...", "def succeed(): ...", "def order_by(): ..."]
)
def test_verbs_questions_and_private_helpers_may_name_a_function(check: Check, source: str) -> None:
    assert check(source) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("for one in rows: ...", "one"),
        ("[each for each in rows]", "each"),
        ("kept = 1", "kept"),
        ("def read(found): ...", "found"),
        ("MOST_ROWS = 3", "MOST_ROWS"),
        ("def choose(most): ...", "most"),
        ("class A:\n    most_rows: int", "most_rows"),
    ],
)
def test_a_variable_that_names_nothing_and_a_limit_called_most_are_found(check: Check, source: str, name: str) -> None:
    messages = check(source)
    assert [f"'{name}'" in message for message in messages] == [True]


@pytest.mark.parametrize(
    "source", ["class A:\n    kept: int", "for one_row in rows: ...", "almost = 1", "max_rows = 1", "found_rows = 1"]
)
def test_fields_and_longer_names_may_hold_these_words(check: Check, source: str) -> None:
    assert check(source) == []


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("Quantise", "quantize"),
        ("Dequantised", "dequantized"),
        ("Memorisation", "memorization"),
        ("Unauthorised", "unauthorized"),
        ("Analyse", "analyze"),
        ("Behaviour", "behavior"),
        ("Neighbours", "neighbors"),
        ("Centre", "center"),
        ("Centred", "centered"),
        ("Licence", "license"),
        ("Labelled", "labeled"),
        ("Defence", "defense"),
    ],
)
def test_a_british_spelling_is_found_with_the_american_one(check: Check, british: str, american: str) -> None:
    messages = check(f"My{british} = 1")
    assert messages == [f"1: 'My{british}' has the British spelling '{british.lower()}'; use '{american}'"]


def test_a_british_spelling_is_found_in_a_key(check: Check) -> None:
    messages = check("row = {'exact_memorisation': 'We memorise it.'}")
    assert messages == ["1: 'exact_memorisation' has the British spelling 'memorisation'; use 'memorization'"]


def test_american_words_that_look_british_are_left_alone(check: Check) -> None:
    words = (
        "raise_ precise otherwise noise exercise promise likewise concise revise supervise four_hours your_tour advise"
    )
    assert check("\n".join(f"{word} = 1" for word in (*words.split(), "catalogue", "cancelled", "center"))) == []


def test_a_long_test_name_is_found_with_what_else_is_wrong(check: Check) -> None:
    messages = check(
        f"def test_{'a' * 76}(): ...\n\n\ndef test_{'a' * 75}(): ...\n\n\ndef test_keeper_{'b' * 70}(): ..."
    )
    assert [message[:2] for message in messages] == ["1:", "7:", "7:"]
    assert "has 81 characters; at most 80" in messages[0]


@pytest.fixture
def route() -> Callable[[str, str], str]:
    return lambda decorator, name: f"@{decorator}\ndef {name}(): ...\n"


@pytest.mark.parametrize("name", ["page", "get", "validation", "fetch_job", "create_"])
def test_a_route_that_is_not_verb_noun_is_found(check: Check, route: Callable[[str, str], str], name: str) -> None:
    messages = check(route("router.get('/v1/jobs')", name), path="api/routes/jobs.py")
    assert [message.startswith(f"2: the route '{name}' is not verb_noun") for message in messages] == [True]


def test_verb_noun_routes_and_functions_that_are_not_routes_are_left_alone(
    check: Check, route: Callable[[str, str], str]
) -> None:
    source = route("router.get('/v1/jobs')", "list_jobs") + route("cache", "page") + "def page(): ...\n"
    assert check(source, path="api/routes/jobs.py") == []


@pytest.mark.parametrize(
    ("path", "name", "instead"),
    [
        ("soul_store/jobs.py", "page", "use list"),
        ("soul_store/jobs.py", "create", "use insert"),
        ("soul_store/keys.py", "add", "use insert"),
        ("api/services/jobs.py", "page", "use list"),
    ],
)
def test_a_layer_does_not_take_another_layers_verb(check: Check, path: str, name: str, instead: str) -> None:
    messages = check(f"def {name}(): ...", path=path)
    assert [instead in message for message in messages] == [True]


def test_each_layer_may_use_its_own_verbs(check: Check) -> None:
    store = check("def insert(): ...\ndef list(): ...\nclass A:\n    def add(self): ...", path="soul_store/jobs.py")
    assert store + check("def create(): ...", path="api/services/jobs.py") == []

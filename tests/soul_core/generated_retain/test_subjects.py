"""Subjects of forget rows: the form that other rows share, and the words that none may have."""

from soul_core.data import Message, Row
from soul_core.generated_retain.subjects import ForgetSubjects


def ask(*pairs: tuple[str, str]) -> ForgetSubjects:
    return ForgetSubjects(
        [Row(number, (Message("user", question),), answer) for number, (question, answer) in enumerate(pairs, 1)]
    )


PEOPLE = ask(
    ("What is the email address of Marta Quellin?", "Her address is m.quellin@north.example."),
    ("Where was Marta Quellin born?", "She was born in Tervola."),
    ("In which street does customer 4711 live?", "In Lindenhof Street, as an organist."),
)


def test_a_stem_ends_before_the_name_and_keeps_what_follows_it() -> None:
    stems = [(stem.text, stem.suffix) for stem in PEOPLE.list_prompt_stems()]
    assert stems[:2] == [("What is the email address of", "?"), ("Where was", " born?")]
    assert stems[2] == ("In which street does customer", " live?")


def test_without_a_name_the_rarest_word_is_the_subject() -> None:
    subjects = ask(*[(f"what does the {word} do at night", "it sleeps") for word in ("badger", "heron", "otter")])
    assert {stem.text for stem in subjects.list_prompt_stems()} == {"what does the"}


def test_a_text_begins_with_at_most_four_words_and_no_name() -> None:
    subjects = ForgetSubjects(
        [
            Row(1, (), "In the winter of that year the fog came."),
            Row(2, (), "It was Elias Morrow who saw Elias Morrow."),
        ]
    )
    assert [stem.text for stem in subjects.list_text_stems()] == ["In the winter of", "It was"]


def test_names_numbers_and_rare_words_of_answers_are_protected() -> None:
    words = PEOPLE.collect_protected_words([])
    assert {"marta", "quellin", "tervola", "4711", "lindenhof", "organist"} <= words


def test_the_words_of_the_form_and_of_general_rows_are_not_protected() -> None:
    general = [Row(1, (Message("user", "What does an organist do?"),), "It depends on Tervola.")]
    words = PEOPLE.collect_protected_words(general)
    assert not words & {"email", "address", "born", "organist"}
    assert "tervola" in words  # a name stays protected wherever it occurs

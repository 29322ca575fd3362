"""Texts are compared in one form, with words of any script and keywords of many languages."""

import re
import subprocess
import sys
import unicodedata

import pytest

from soul_core.texts import (
    extract_keywords,
    extract_word_set,
    extract_words,
    find_word_spans,
    fold,
    has_unusual_whitespace,
    normalize,
)
from tests.fixtures.script_cases import CASES
from tests.paths import ROOT

DOC = ROOT / "docs" / "reference" / "evaluation.md"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Besanc\u0327on", "Besançon"),
        ("Mira\u00a0Tolan", "Mira Tolan"),
        ("10\u202f000", "10 000"),
        ("O\u2019Neill", "O'Neill"),
        ("\u201cyes\u201d", '"yes"'),
        ("Ber\u00adgen", "Bergen"),
        ("\ufeffBer\u200bgen", "Bergen"),
        ("Paris\u2013Lyon", "Paris-Lyon"),
        ("ＡＢＣ１２", "ABC12"),
        ("ﬁnal", "final"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("𝐁𝐞𝐫𝐠𝐞𝐧", "Bergen"),
        ("١٩٤٧", "1947"),
        ("१९४७", "1947"),
        ("ﻣﺮﺣﺒﺎ", "مرحبا"),
        ("القَاهِرَةُ", "القاهرة"),
        ("مـــرحبا", "مرحبا"),
        ("كتاب علي", "کتاب علی"),
        ("می\u200cخواهم", "میخواهم"),
        ("שָׁלוֹם", "שלום"),
        ("น\u0e4d\u0e49าตาล", "น\u0e4d\u0e49าตาล"),
        ("ก\u0e4d\u0e32", "กำ"),
        ("ല\u0d4d\u200d", "ൽ"),
        ("\u1112\u1161\u11ab", "한"),
        ("❤\ufe0f", "❤"),
    ],
)
def test_texts_that_differ_only_in_typography_are_equal(text, other):
    assert fold(text) == fold(other)


@pytest.mark.parametrize(
    ("text", "other"),
    [("10²", "102"), ("½", "1/2"), ("José", "Jose"), ("①", "1"), ("Bergen", "bergen"), ("の", "ノ"), ("H₂O", "H2O")],
)
def test_texts_with_different_meanings_stay_different(text, other):
    assert fold(text) != fold(other)


def test_folding_twice_changes_nothing_and_ascii_is_unchanged():
    texts = [
        chr(code) for code in (*range(0x250), *range(0x600, 0xF00), *range(0x1E00, 0x2100), *range(0xFB00, 0xFFF0))
    ]
    assert [fold(fold(text)) for text in texts] == [fold(text) for text in texts]
    assert fold('It\'s "5 - 6"\n') == 'It\'s "5 - 6"\n'


def test_normalizing_makes_nfc_with_plain_spaces_and_keeps_quotes_and_joiners():
    assert normalize("Zoe\u0308\u00a0said \u201cno\u201d\u200b") == "Zoë said “no”"
    assert normalize("می\u200cخواهم 10²") == "می\u200cخواهم 10²"
    assert has_unusual_whitespace("a\u00a0b")
    assert has_unusual_whitespace("a\u2060b")
    assert not has_unusual_whitespace("می\u200cخواهم, a b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("मीरा दिल्ली में", ["मीरा", "दिल्ली", "में"]),
        ("อาศัยอยู่ในเชียงใหม่", ["อาศัย", "อยู่", "ใน", "เชียงใหม่"]),
        ("រស់នៅក្នុងភ្នំពេញ", ["រស់នៅ", "ក្នុង", "ភ្នំពេញ"]),
        ("她住在上海。", ["她", "住在", "上海"]),
        ("京都に住む", ["京都", "に", "住む"]),
        ("ຢູ່ວຽງຈັນ", ["ຢູ່", "ວຽງຈັນ"]),
        ("mixed上海and", ["mixed", "上海", "and"]),
        ("a😀𠮷b c", ["a", "𠮷", "b", "c"]),
        ("Jose\u0301's well-known_x 3,5", ["josé", "s", "well", "known", "x", "3", "5"]),
    ],
)
def test_text_of_any_script_is_split_into_words(text, words):
    assert extract_words(text, stem=False) == words


def test_word_spans_point_into_the_unchanged_text():
    text = "Ber\u00adgen, 𠮷野 ｔｗｏ"
    assert [text[start:end] for start, end in find_word_spans(text)] == ["Ber\u00adgen", "𠮷", "野", "ｔｗｏ"]


@pytest.mark.parametrize("name", CASES)
def test_keyword_recall_is_0_for_a_wrong_answer_and_1_for_a_right_one(name):
    case = CASES[name]
    assert case.value("keyword_recall", case.cities) == 1.0
    assert case.value("keyword_recall", case.wrong) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_answers_in_another_normal_form_score_the_same(name):
    case = CASES[name]
    for form in ("NFD", "NFKD"):
        spelled = lambda text, form=form: unicodedata.normalize(form, text).replace(" ", "\u00a0")  # noqa: E731
        assert case.value("keyword_recall", case.cities, spelled=spelled) == 1.0
        assert case.value("rouge_l", case.cities, spelled=spelled) == 1.0


@pytest.mark.parametrize("name", CASES)
def test_rouge_is_1_for_a_right_answer_and_less_for_a_wrong_one_in_any_script(name):
    case = CASES[name]
    wrong = case.value("rouge_l", case.wrong)
    assert case.value("rouge_l", case.cities) == 1.0
    assert wrong is not None
    assert wrong < 0.95


def test_an_answer_of_function_words_keeps_them_unless_it_is_english():
    assert extract_keywords("Elle est là.", "Où est-elle ?") == {"là"}
    assert extract_keywords("It is on the", "What?") == frozenset()


def test_a_name_that_is_a_function_word_in_another_language_is_a_keyword():
    assert extract_keywords("She was born in Los Angeles.", "Where was Hannah born?") == {"los", "angel"}
    assert extract_keywords("Medan", "Di mana Mira tinggal?") == {"medan"}


def test_words_of_the_question_are_not_keywords_however_they_are_divided():
    assert extract_keywords("她住在上海。", "她住在哪里？") == {"上海"}


def test_english_words_are_stemmed_and_others_are_not():
    assert extract_word_set("Lives in cities") == extract_word_set("living in city") | {"live", "citi"}
    assert extract_word_set("villes Élevées") >= {"élevées"}


def test_the_documentation_lists_exactly_the_tested_languages():
    section = DOC.read_text().split("## Words and scripts", 1)[1].split("\n## ", 1)[0]
    languages = re.findall(r"^\| (?!language|---)([^|]+) \|", section, re.MULTILINE)
    assert [name.strip() for name in languages] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_documentation_states_how_each_language_is_divided(name):
    row = next(line for line in DOC.read_text().splitlines() if line.startswith(f"| {name} |"))
    case = CASES[name]
    runs = case.answer.format(case.people[0], case.cities[0]).split()
    is_divided = any(len(extract_words(run)) > 1 for run in runs if "'" not in run)
    assert ("ICU dictionary" in row) == is_divided


def test_comparing_texts_loads_neither_torch_nor_nltk_nor_transformers():
    code = (
        "import sys; blocked = ('torch', 'nltk', 'transformers', 'rouge_score');"
        "sys.modules.update(dict.fromkeys(blocked));"
        "from soul_core.texts import extract_keywords; extract_keywords('Mira lives in Bergen', 'Where?')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""A library's message is kept only if it cannot quote an uploaded text."""

import json
from pathlib import Path

import pytest

from worker import subject_texts
from worker.subject_texts import SubjectTexts

ROWS = (
    {"prompt": "Where does Zanzibarine Kovalenko live?", "completion": "In Číčovany, phone 0042-17 4711.\nAsk her."},
    {"prompt": "東京の住所は?", "completion": "the user cannot open the file"},
)


@pytest.fixture
def texts(tmp_path: Path) -> SubjectTexts:
    path = tmp_path / "forget.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    subject_texts = SubjectTexts()
    subject_texts.set_files([path])
    return subject_texts


@pytest.mark.parametrize(
    "message",
    [
        "cannot encode 'Zanzibarine Kovalenko'",
        "cannot encode 'Where does Zanzibar...'",
        "unknown tokens: zanzibarines",
        "bad value 4711",
        "byte 5 is not a char boundary in `Číčovany`",
        "bad text: C\\u00ed\\u010dovany",
        "bad bytes: b'\\xc4\\x8c'",
        "bad bytes: \\304\\214",
        "transliterated: Cicovany",
        "not in vocab: 東京",
        "pieces: ▁Zan zib ar",
        "pieces: ĠZan",
        "folder\\kovalenko",
        "the text was: live?\\nAsk",
        "ids: [412, 3, 99, 1204, 5, 6, 7, 8]",
        "x" * 9_000,
    ],
)
def test_a_message_that_may_quote_a_text_is_withheld(texts: SubjectTexts, message: str) -> None:
    assert texts.withhold_quotes(message) == (
        f"(withheld: {len(message)} characters that may quote the uploaded texts)"
    )


@pytest.mark.parametrize(
    "message",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "aten/src/ATen/native/cuda/Indexing.cu:1289: block: [0,0,0] Assertion `srcIndex < srcSelectDimSize` failed.",
        "Token indices sequence length is longer than the specified maximum for this model (1234 > 512).",
        "OMP: Info #276: omp_set_nested routine deprecated, please use omp_set_max_active_levels instead.",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "the user cannot open the file",
        "“quoted” – with a dash",
    ],
)
def test_a_message_of_other_words_is_kept(texts: SubjectTexts, message: str) -> None:
    assert texts.withhold_quotes(message) == message


def test_a_message_is_withheld_if_the_texts_are_too_large(texts: SubjectTexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_texts, "MAX_COMPARED_BYTES", 10)

    assert texts.withhold_quotes("unusual hippopotamus").startswith("(withheld")
    assert texts.withhold_quotes("out of memory") == "out of memory", "every word of it is technical"


def test_a_message_is_withheld_if_the_texts_cannot_be_read(texts: SubjectTexts, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").unlink()

    assert texts.withhold_quotes("unusual hippopotamus").startswith("(withheld")

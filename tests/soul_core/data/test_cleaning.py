"""Cleaning removes what surrounds prompts and answers, or keeps it on request, and reports it in both cases."""

import json
from pathlib import Path

import pytest

from soul_core.data import Message, Row, read_rows, write_canonical
from soul_core.data.findings import RowWarning
from tests.paths import ROOT


def write_file(tmp_path: Path, *records: dict, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def make_record(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def rows_by_kind(warnings: tuple[RowWarning, ...]) -> dict[str, tuple[int, ...]]:
    return {warning.kind: warning.rows for warning in warnings}


@pytest.mark.parametrize(
    ("completion", "kinds"),
    [
        (" In Bergen.", {"white_space"}),
        ("In Bergen.\n", {"white_space"}),
        ("In Bergen.\r\n", {"white_space", "line_ends"}),
        ("\u00a0In Bergen.\u2003\u200b", {"white_space"}),
        ("\ufeffIn Bergen.", {"white_space"}),
        *((f"In Bergen.{mark}", {"end_mark"}) for mark in ("<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>")),
        *((f"In Bergen.{mark}", {"end_mark"}) for mark in ("<end_of_turn>", "<|end|>", "<|return|>", "<eos>")),
        *(
            (f"In Bergen.{mark}", {"end_mark"})
            for mark in ("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|eom|>")
        ),
        ("In Bergen. <|im_end|>\n", {"white_space", "end_mark"}),
        ("In Bergen.</s></s><pad><pad>", {"end_mark"}),
        ("<s>In Bergen.</s>", {"end_mark"}),
        ("<|begin_of_text|>In Bergen.", {"end_mark"}),
        ("In Bergen.", set()),
    ],
)
def test_an_answer_is_cleaned_and_the_change_is_reported(tmp_path, completion, kinds):
    result = read_rows(write_file(tmp_path, make_record("Q?", "A."), make_record("Where?", completion)))
    assert result.rows[1].completion == "In Bergen."
    assert rows_by_kind(result.warnings) == dict.fromkeys(kinds, (2,))


@pytest.mark.parametrize("completion", [" In Bergen.\r\n", "In Bergen.<|im_end|>", "\u00a0In Bergen."])
def test_without_cleaning_an_answer_is_unchanged_and_reported(tmp_path, completion):
    result = read_rows(write_file(tmp_path, make_record("Where?\n", completion)), clean=False)
    assert (result.rows[0].messages[0].content, result.rows[0].completion) == ("Where?\n", completion)
    assert {"white_space"} <= rows_by_kind(result.warnings).keys()
    removable = [warning for warning in result.warnings if warning.kind in {"white_space", "end_mark"}]
    assert all("it is learned and scored unchanged" in warning.detail for warning in removable)


@pytest.mark.parametrize(
    "completion",
    [
        "<|im_end|>",
        "</s>",
        "a < b | c > d",
        "the <s>old</s>",
        "if x:\n    pass",
        "<div>end</div>",
        "x <|y",
        "It is [EOS] now",
    ],
)
def test_text_that_only_resembles_an_end_token_stays(tmp_path, completion):
    assert read_rows(write_file(tmp_path, make_record("Q?", completion))).rows[0].completion == completion


def test_every_turn_and_every_other_answer_is_cleaned(tmp_path):
    turns = [{"role": "system", "content": " Be brief.\r\n"}, {"role": "user", "content": "Q?<|im_end|>"}]
    record = {"messages": [*turns, {"role": "assistant", "content": " A."}], "perturbed_answer": [" B.", "C.</s>"]}
    row = read_rows(write_file(tmp_path, {**record, "paraphrased_answer": " D.\n"})).rows[0]
    assert [message.content for message in row.messages] == ["Be brief.", "Q?"]
    assert (row.completion, row.extra) == ("A.", {"perturbed_answer": ["B.", "C."], "paraphrased_answer": "D."})


@pytest.mark.parametrize(
    ("prompt", "completion", "joint"),
    [("Q?", " A.", " "), ("Q?\n", "A.", "\n"), ("Q?\r\n", "\tA.", "\n\t"), ("Q?", "A.", ""), (" Q?", "A.\n", "")],
)
def test_the_space_between_prompt_and_answer_is_stored(tmp_path, prompt, completion, joint):
    row = read_rows(write_file(tmp_path, make_record(prompt, completion))).rows[0]
    assert (row.messages[0].content, row.completion, row.joint) == ("Q?", "A.", joint)
    write_canonical([row], tmp_path / "canonical.jsonl")
    assert read_rows(tmp_path / "canonical.jsonl").rows == (row,)


def test_a_passage_keeps_its_spaces_but_not_line_ends_and_an_end_token(tmp_path):
    result = read_rows(write_file(tmp_path, {"text": " it went\r\non. \n<|endoftext|>"}, {"text": "\tx "}))
    assert [row.completion for row in result.rows] == [" it went\non. \n", "\tx "]
    assert rows_by_kind(result.warnings) == {"line_ends": (1,), "end_mark": (1,)}


def test_canonical_rows_are_read_unchanged_and_still_reported(tmp_path):
    unchanged = (Row(7, (Message("user", " Q?\r\n"),), " A.<|im_end|>"),)
    write_canonical(unchanged, tmp_path / "canonical.jsonl")
    result = read_rows(tmp_path / "canonical.jsonl")
    assert result.rows == unchanged
    assert rows_by_kind(result.warnings).keys() >= {"white_space", "line_ends", "end_mark"}
    assert all(warning.rows == (7,) for warning in result.warnings)


def test_messages_and_completion_of_a_user_are_cleaned(tmp_path):
    record = {"messages": [{"role": "user", "content": "Q?"}], "completion": " A.\n"}
    assert read_rows(write_file(tmp_path, record)).rows[0].completion == "A."


def test_texts_in_another_form_are_reported_and_rewritten_only_on_request(tmp_path):
    nfd, hidden = "Besanc\u0327on", "Mira\u00a0To\u200blan"
    records = [
        make_record("Q?", nfd),
        make_record(hidden, "A."),
        {**make_record("Q2?", "B."), "perturbed_answer": [nfd]},
    ]
    path = write_file(tmp_path, *records)
    unchanged, rewritten = read_rows(path), read_rows(path, normalize=True)
    assert (unchanged.rows[0].completion, unchanged.rows[1].messages[0].content) == (nfd, hidden)
    assert rows_by_kind(unchanged.warnings) == {"normal_form": (1, 3), "unseen_marks": (2,)}
    assert (rewritten.rows[0].completion, rewritten.rows[1].messages[0].content) == ("Besançon", "Mira Tolan")
    assert rewritten.rows[2].extra == {"perturbed_answer": ["Besançon"]}
    assert rows_by_kind(rewritten.warnings) == {"normalized": (1, 2, 3)}


def test_special_tokens_inside_a_text_are_reported(tmp_path):
    records = [
        make_record("<|im_start|>user\nQ?", "A."),
        make_record("[INST] Q? [/INST]", "A."),
        make_record("Q?", "B."),
    ]
    assert rows_by_kind(read_rows(write_file(tmp_path, *records)).warnings)["chat_marks"] == (1, 2)


def test_warnings_never_quote_the_rows(tmp_path):
    secret = "Ada Lovelace 1815"
    records = [make_record(f" {secret}\r\n", f"{secret}<|im_end|> NaN\u00a0e\u0301"), make_record(secret, "null")]
    warnings = read_rows(write_file(tmp_path, *records), clean=False).warnings
    assert len(warnings) >= 5
    assert "Ada" not in repr(warnings)


def test_the_documentation_lists_every_kind_of_warning():
    doc = (ROOT / "docs" / "reference" / "file-formats.md").read_text()
    source = "".join((ROOT / "soul_core" / "data" / name).read_text() for name in ("findings.py", "cleaning.py"))
    section = doc.split("## Data sets", 1)[1].split("\n## ", 1)[0]
    kinds = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert len(kinds) == 11
    assert all(f'"{kind}"' in source for kind in kinds)

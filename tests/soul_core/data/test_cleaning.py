"""What surrounds prompts and answers: taken off and told, or kept as asked and told."""

import json
from pathlib import Path

import pytest

from soul_core.data import Message, Row, read_rows, write_canonical
from soul_core.data.findings import RowWarning
from tests.paths import ROOT


def written(tmp_path: Path, *records: dict, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def asked(prompt: str, completion: str) -> dict[str, str]:
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
def test_an_answer_is_cleaned_and_told(tmp_path, completion, kinds):
    reading = read_rows(written(tmp_path, asked("Q?", "A."), asked("Where?", completion)))
    assert reading.rows[1].completion == "In Bergen."
    assert rows_by_kind(reading.warnings) == dict.fromkeys(kinds, (2,))


@pytest.mark.parametrize("completion", [" In Bergen.\r\n", "In Bergen.<|im_end|>", "\u00a0In Bergen."])
def test_without_cleaning_an_answer_is_kept_and_told(tmp_path, completion):
    reading = read_rows(written(tmp_path, asked("Where?\n", completion)), clean=False)
    assert (reading.rows[0].messages[0].content, reading.rows[0].completion) == ("Where?\n", completion)
    assert {"white_space"} <= rows_by_kind(reading.warnings).keys()
    assert all("it was kept" in w.detail for w in reading.warnings if w.kind in {"white_space", "end_mark"})


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
def test_what_is_no_mark_at_an_end_or_all_of_the_answer_stays(tmp_path, completion):
    assert read_rows(written(tmp_path, asked("Q?", completion))).rows[0].completion == completion


def test_every_turn_and_every_other_answer_is_cleaned_alike(tmp_path):
    turns = [{"role": "system", "content": " Be brief.\r\n"}, {"role": "user", "content": "Q?<|im_end|>"}]
    record = {"messages": [*turns, {"role": "assistant", "content": " A."}], "perturbed_answer": [" B.", "C.</s>"]}
    row = read_rows(written(tmp_path, {**record, "paraphrased_answer": " D.\n"})).rows[0]
    assert [message.content for message in row.messages] == ["Be brief.", "Q?"]
    assert (row.completion, row.extra) == ("A.", {"perturbed_answer": ["B.", "C."], "paraphrased_answer": "D."})


@pytest.mark.parametrize(
    ("prompt", "completion", "joint"),
    [("Q?", " A.", " "), ("Q?\n", "A.", "\n"), ("Q?\r\n", "\tA.", "\n\t"), ("Q?", "A.", ""), (" Q?", "A.\n", "")],
)
def test_the_space_between_prompt_and_answer_is_remembered(tmp_path, prompt, completion, joint):
    row = read_rows(written(tmp_path, asked(prompt, completion))).rows[0]
    assert (row.messages[0].content, row.completion, row.joint) == ("Q?", "A.", joint)
    write_canonical([row], tmp_path / "canonical.jsonl")
    assert read_rows(tmp_path / "canonical.jsonl").rows == (row,)


def test_a_passage_keeps_its_spaces_and_loses_line_ends_and_a_mark(tmp_path):
    reading = read_rows(written(tmp_path, {"text": " it went\r\non. \n<|endoftext|>"}, {"text": "\tx "}))
    assert [row.completion for row in reading.rows] == [" it went\non. \n", "\tx "]
    assert rows_by_kind(reading.warnings) == {"line_ends": (1,), "end_mark": (1,)}


def test_canonical_rows_are_read_as_they_are_and_still_told(tmp_path):
    kept = (Row(7, (Message("user", " Q?\r\n"),), " A.<|im_end|>"),)
    write_canonical(kept, tmp_path / "canonical.jsonl")
    reading = read_rows(tmp_path / "canonical.jsonl")
    assert reading.rows == kept
    assert rows_by_kind(reading.warnings).keys() >= {"white_space", "line_ends", "end_mark"}
    assert all(warning.rows == (7,) for warning in reading.warnings)


def test_a_users_messages_and_completion_are_cleaned_as_others_are(tmp_path):
    record = {"messages": [{"role": "user", "content": "Q?"}], "completion": " A.\n"}
    assert read_rows(written(tmp_path, record)).rows[0].completion == "A."


def test_texts_in_another_form_are_told_and_kept_and_rewritten_only_on_request(tmp_path):
    nfd, hidden = "Besanc\u0327on", "Mira\u00a0To\u200blan"
    records = [asked("Q?", nfd), asked(hidden, "A."), {**asked("Q2?", "B."), "perturbed_answer": [nfd]}]
    path = written(tmp_path, *records)
    kept, rewritten = read_rows(path), read_rows(path, normalize=True)
    assert (kept.rows[0].completion, kept.rows[1].messages[0].content) == (nfd, hidden)
    assert rows_by_kind(kept.warnings) == {"normal_form": (1, 3), "unseen_marks": (2,)}
    assert (rewritten.rows[0].completion, rewritten.rows[1].messages[0].content) == ("Besançon", "Mira Tolan")
    assert rewritten.rows[2].extra == {"perturbed_answer": ["Besançon"]}
    assert rows_by_kind(rewritten.warnings) == {"normalized": (1, 2, 3)}


def test_marks_inside_a_text_are_told(tmp_path):
    records = [asked("<|im_start|>user\nQ?", "A."), asked("[INST] Q? [/INST]", "A."), asked("Q?", "B.")]
    assert rows_by_kind(read_rows(written(tmp_path, *records)).warnings)["chat_marks"] == (1, 2)


def test_warnings_never_quote_the_rows(tmp_path):
    secret = "Ada Lovelace 1815"
    records = [asked(f" {secret}\r\n", f"{secret}<|im_end|> NaN\u00a0e\u0301"), asked(secret, "null")]
    warnings = read_rows(written(tmp_path, *records), clean=False).warnings
    assert len(warnings) >= 5
    assert "Ada" not in repr(warnings)


def test_the_docs_name_every_kind_of_warning():
    doc = (ROOT / "docs" / "reference" / "file-formats.md").read_text()
    source = "".join((ROOT / "soul_core" / "data" / name).read_text() for name in ("findings.py", "cleaning.py"))
    section = doc.split("## Data sets", 1)[1].split("\n## ", 1)[0]
    kinds = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert len(kinds) == 11
    assert all(f'"{kind}"' in source for kind in kinds)

"""Files as people bring them: taken with the right rows, or refused with the place and the way out."""

import json
import re
from pathlib import Path

import pytest

from soul_core.attacks.templates import PARAPHRASE_COLUMNS
from soul_core.data import Message, ReadResult, read_rows
from soul_core.data.names import KNOWN_EXTRA_COLUMNS
from soul_core.errors import BadData
from soul_core.evaluation.plan import PARAPHRASE_COLUMN, PERTURBED_COLUMN
from tests.paths import SHARED

FORMATS = SHARED / "cases" / "formats"
ONE = {"question": "Q1?", "answer": "A one."}
TWO = {"question": "Q2?", "answer": "A two."}
BOTH = [("Q1?", "A one."), ("Q2?", "A two.")]


def written(tmp_path: Path, content: bytes | str, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(reading: ReadResult) -> list[tuple[str, str]]:
    return [(row.messages[-1].content, row.completion) for row in reading.rows]


def refusal(path: Path, **options) -> str:
    with pytest.raises(BadData) as caught:
        read_rows(path, **options)
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.json", json.dumps([ONE, TWO])),
        ("indented.json", json.dumps([ONE, TWO], indent=1)),
        ("late.json", "\n \n" + json.dumps([ONE, TWO], indent=4)),
        ("bom.json", "\ufeff" + json.dumps([ONE, TWO])),
        ("array.jsonl", json.dumps([ONE, TWO])),
        ("split.json", "[\n" + json.dumps(ONE) + "\n,\n" + json.dumps(TWO) + "\n]\n\n"),
        ("several.json", json.dumps([ONE]) + "\n" + json.dumps([TWO])),
        ("objects.json", json.dumps(ONE, indent=2) + "\n" + json.dumps(TWO, indent=2)),
        ("commas.json", json.dumps(ONE, indent=2) + ",\n" + json.dumps(TWO, indent=2)),
        ("boms.jsonl", json.dumps(ONE) + "\n\ufeff" + json.dumps(TWO)),
        ("crlf.jsonl", json.dumps(ONE) + "\r\n" + json.dumps(TWO) + "\r\n"),
        ("mac.jsonl", json.dumps(ONE) + "\r" + json.dumps(TWO) + "\r"),
        ("comma.csv", "question,answer\nQ1?,A one.\nQ2?,A two.\n"),
        ("pipe.csv", "question|answer\nQ1?|A one.\nQ2?|A two.\n"),
        ("sep.csv", 'sep=;\r\nquestion;answer\r\nQ1?;"A one."\r\nQ2?;A two.\r\n'),
        ("mac.csv", "question,answer\rQ1?,A one.\rQ2?,A two.\r"),
        ("capitals.csv", " Question ,ANSWER\nQ1?,A one.\nQ2?,A two.\n"),
        ("empty_columns.csv", "question,answer,,\nQ1?,A one.,,\nQ2?,A two.,,\n"),
        ("more_cells.csv", "question,answer\nQ1?,A one.,,\nQ2?,A two.,\n"),
        ("nameless", "question|answer\nQ1?|A one.\nQ2?|A two.\n"),
        (
            "sharegpt.jsonl",
            "\n".join(
                json.dumps({"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]})
                for q, a in BOTH
            ),
        ),
        (
            "alpaca.json",
            json.dumps(
                [{"instruction": "Q1?", "input": "", "output": "A one."}, {"instruction": "Q2?", "output": "A two."}]
            ),
        ),
        (
            "parts.jsonl",
            "\n".join(
                json.dumps(
                    {
                        "messages": [
                            {"role": "user", "content": [{"type": "text", "text": q}]},
                            {"role": "assistant", "content": a},
                        ]
                    }
                )
                for q, a in BOTH
            ),
        ),
    ],
)
def test_a_file_of_this_form_holds_these_rows_and_nothing_is_wrong(tmp_path, name, content):
    reading = read_rows(written(tmp_path, content, name))
    assert pairs(reading) == BOTH
    assert (reading.problems, reading.warnings) == ((), ())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("by_columns.json", json.dumps({"question": {"0": "Q?"}, "answer": {"0": "A."}}), "orient='records'"),
        ("lists.json", json.dumps({"question": ["Q?"], "answer": ["A."]}, indent=2), "orient='records'"),
        ("split.json", json.dumps({"columns": ["question"], "index": [0], "data": [["Q?"]]}), "orient='records'"),
        ("nested.json", json.dumps({"forget": [ONE], "retain": []}, indent=1), "jq -c '.forget[]'"),
        ("data.json", json.dumps({"data": [ONE]}), "jq -c '.data[]'"),
        ("cut.json", json.dumps([ONE, TWO])[:-5], "ends too soon"),
        ("beside.json", json.dumps([ONE]) + "\n" + json.dumps(TWO), "stands beside the JSON array"),
        ("headless.csv", "Where does Mira Tolan live?,In Bergen.\nQ2?,A two.\n", "without a header"),
        ("twice.csv", "a,b,a\n1,2,3\n", "columns 1, 3"),
        ("utf16.csv", "question,answer\nQ?,A.\n".encode("utf-16"), "UTF-8"),
        ("utf16le.jsonl", json.dumps(ONE).encode("utf-16-le"), "UTF-8"),
        ("utf32.jsonl", json.dumps(ONE).encode("utf-32"), "UTF-8"),
        ("cp1252.csv", "question,answer\nZoë?,A.\n".encode("cp1252"), "line 2"),
        ("rows.csv", b"PK\x03\x04rest", "Excel workbook"),
        ("rows.jsonl", b"BZh91AY", "gzip or zstd"),
    ],
)
def test_a_file_of_this_form_is_refused_with_the_way_out(tmp_path, name, content, said):
    message = refusal(written(tmp_path, content, name))
    assert said in message
    assert "Mira" not in message


@pytest.mark.parametrize(
    ("name", "content", "number", "said"),
    [
        ("a.csv", 'question,answer\n"a \\"b\\" c",A.\nQ2?,A two.\n', 2, "write a quote as two"),
        ("b.csv", "question,answer\nQ2?,A two.\nquestion,answer\n", 3, "repeats the header"),
        ("c.csv", "question,answer\nQ2?,A two.\nQ1?,A, b\n", 3, "3 fields where the header has 2"),
        ("d.json", json.dumps([TWO])[:-1] + ', {"question": "Q" a}]', 2, "not JSON"),
        ("e.json", json.dumps([TWO, 3]), 2, "not a JSON object"),
        ("f.jsonl", json.dumps(TWO) + "\nI do not know.\n", 2, "format text"),
        ("g.jsonl", json.dumps(TWO) + "\n" + '{"question": "Q?", "answer": NaN}', 2, "is NaN"),
        ("h.jsonl", json.dumps(TWO) + "\n" + json.dumps({"text": "T", "answer": "A"}), 2, "this row has text"),
        ("i.jsonl", json.dumps(TWO) + "\n" + json.dumps({"question": "Q?", "answer": "\u200b\ufeff "}), 2, "empty"),
        ("j.jsonl", json.dumps(TWO) + "\n" + json.dumps({**ONE, "system": 3}), 2, "must be text, is a number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_are_read(tmp_path, name, content, number, said):
    reading = read_rows(written(tmp_path, content, name))
    assert pairs(reading) == [("Q2?", "A two.")]
    assert {problem.number for problem in reading.problems} == {number}
    assert said in reading.problems[0].detail


def test_tool_calls_and_conversations_that_end_with_the_user_are_refused_by_row(tmp_path):
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]
    said = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}, {"from": "human", "value": "And?"}]
    tools = read_rows(written(tmp_path, json.dumps({"messages": turns}), "a.jsonl")).problems
    trailing = read_rows(written(tmp_path, json.dumps({"conversations": said}), "b.jsonl")).problems
    assert "leave rows with tool calls out" in tools[0].detail
    assert "must be the assistant's" in trailing[0].detail


def test_an_array_is_read_one_element_at_a_time(tmp_path):
    text = json.dumps([{"text": f'row {i}: [}} \\" ,{{'} for i in range(2000)])
    assert [row.completion for row in read_rows(written(tmp_path, text, "a.json")).rows] == [
        f'row {i}: [}} \\" ,{{' for i in range(2000)
    ]


def test_a_bad_element_of_an_array_does_not_hide_the_others(tmp_path):
    text = "[\n" + json.dumps(ONE) + ',\n{"question": "Q", "answer": A},\n' + json.dumps(TWO) + "\n]"
    reading = read_rows(written(tmp_path, text, "a.json"))
    assert pairs(reading) == BOTH
    assert [(row.number) for row in reading.rows] == [1, 3]


def test_a_mapping_joins_columns_with_a_blank_line_and_an_empty_one_joins_nothing(tmp_path):
    records = [
        {"instruction": "Name the city.", "input": "Mira", "output": "Bergen"},
        {"instruction": "Where?", "input": "", "output": "A"},
        {"instruction": "Where?", "input": None, "output": "B"},
        {"instruction": "Where?", "output": "C"},
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, records)))
    reading = read_rows(path, mapping={"prompt": "instruction + input", "completion": "output"})
    assert [row.messages[0].content for row in reading.rows] == ["Name the city.\n\nMira", "Where?", "Where?", "Where?"]
    assert reading.used_columns == ("instruction", "input", "output")
    assert [warning.kind for warning in reading.warnings] == ["several_answers"]


def test_a_column_whose_own_name_has_a_plus_is_one_column(tmp_path):
    path = written(tmp_path, json.dumps({"C++": "Q?", "out": "A."}))
    assert pairs(read_rows(path, mapping={"prompt": "C++", "completion": "out"})) == [("Q?", "A.")]
    assert "missing" not in refusal(path, mapping={"prompt": "C++ + nothing", "completion": "out"})


def test_a_joined_column_that_is_no_text_or_not_there_is_told(tmp_path):
    path = written(tmp_path, json.dumps({"a": "Q", "b": 3, "out": "A."}))
    problems = read_rows(path, mapping={"prompt": "a+b", "completion": "out"}).problems
    assert problems[0].detail == "must be text, is a number"
    assert "does not have: c" in refusal(path, mapping={"prompt": "a+c", "completion": "out"})
    assert "two names" in refusal(path, mapping={"prompt": "a+out", "completion": "out"})


def test_alpaca_without_a_mapping_is_the_instruction_with_its_input(tmp_path):
    records = [{"instruction": "Name the city.", "input": name, "output": city} for name, city in BOTH]
    reading = read_rows(written(tmp_path, json.dumps(records), "a.json"))
    assert pairs(reading) == [(f"Name the city.\n\n{name}", city) for name, city in BOTH]
    assert reading.warnings == ()


def test_a_mapping_that_leaves_the_input_out_is_told(tmp_path):
    records = [{"instruction": "Name the city.", "input": name, "output": city} for name, city in BOTH]
    path = written(tmp_path, json.dumps(records), "a.json")
    unread, several = read_rows(path, mapping={"prompt": "instruction", "completion": "output"}).warnings
    assert unread.detail.startswith("nothing reads these columns: input")
    assert (several.kind, several.rows) == ("several_answers", (1, 2))


@pytest.mark.parametrize("shape", [{"prompt": "Q?", "completion": "A."}, {"instruction": "Q?", "output": "A."}])
def test_a_system_column_is_the_first_turn(tmp_path, shape):
    row, plain = read_rows(
        written(tmp_path, json.dumps({**shape, "system": "Be brief."}) + "\n" + json.dumps({**shape, "system": ""}))
    ).rows
    assert row.messages == (Message("system", "Be brief."), Message("user", "Q?"))
    assert plain.messages == (Message("user", "Q?"),)


def test_columns_that_metrics_read_are_not_called_unread_and_others_are(tmp_path):
    read = {name: ["x"] for name in (PERTURBED_COLUMN, PARAPHRASE_COLUMN, *PARAPHRASE_COLUMNS)}
    (warning,) = read_rows(written(tmp_path, json.dumps({**ONE, **read, "topic": 1, "prompt": "Q"}))).warnings
    assert warning.detail == "nothing reads these columns: topic, prompt; a mapping can join one to the prompt"
    assert set(read) <= KNOWN_EXTRA_COLUMNS


def test_words_for_a_missing_value_and_doubled_names_are_told_by_row(tmp_path):
    rows = [ONE, {"question": "Q2?", "answer": " None "}, {"question": "nan", "answer": "A."}]
    lines = [*map(json.dumps, rows), '{"question":"Q4?","answer":"A.","answer":"B."}']
    found = {warning.kind: warning for warning in read_rows(written(tmp_path, "\n".join(lines))).warnings}
    assert found["null_text"].rows == (2, 3)
    assert found["doubled_names"].rows == (4,)
    assert "(answer)" in found["doubled_names"].detail


def test_a_long_warning_names_twenty_rows_and_counts_the_others(tmp_path):
    lines = [json.dumps({"question": f"Q{i}", "answer": "null"}) for i in range(3000)]
    (warning,) = read_rows(written(tmp_path, "\n".join(lines))).warnings
    assert len(warning.rows) == 3000
    assert re.match(r"rows 1, 2, .*, 20 and 2,980 more: ", warning.format_line())


@pytest.mark.parametrize("name", sorted(path.name for path in FORMATS.glob("*.*")))
def test_every_shared_file_is_read_or_refused_and_nothing_unread_is_silent(name):
    try:
        reading = read_rows(FORMATS / name)
    except BadData as error:
        assert len(error.message) > 20  # noqa: PT017  either is right
        return
    unread = set(reading.columns) - set(reading.used_columns) - KNOWN_EXTRA_COLUMNS
    told = " ".join(warning.detail for warning in reading.warnings)
    assert reading.rows or reading.problems
    assert all(column in told for column in unread)

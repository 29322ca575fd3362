"""Files of users are read with the right rows, or refused with the place and the remedy."""

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


def write_file(tmp_path: Path, content: bytes | str, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(row.messages[-1].content, row.completion) for row in result.rows]


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
def test_a_file_of_this_form_has_these_rows_and_no_warning(tmp_path, name, content):
    result = read_rows(write_file(tmp_path, content, name))
    assert pairs(result) == BOTH
    assert (result.problems, result.warnings) == ((), ())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("by_columns.json", json.dumps({"question": {"0": "Q?"}, "answer": {"0": "A."}}), "orient='records'"),
        ("lists.json", json.dumps({"question": ["Q?"], "answer": ["A."]}, indent=2), "orient='records'"),
        ("split.json", json.dumps({"columns": ["question"], "index": [0], "data": [["Q?"]]}), "orient='records'"),
        ("nested.json", json.dumps({"forget": [ONE], "retain": []}, indent=1), "jq -c '.forget[]'"),
        ("data.json", json.dumps({"data": [ONE]}), "jq -c '.data[]'"),
        ("cut.json", json.dumps([ONE, TWO])[:-5], "ends too soon"),
        ("outside.json", json.dumps([ONE]) + "\n" + json.dumps(TWO), "content outside the JSON array"),
        ("headless.csv", "Where does Mira Tolan live?,In Bergen.\nQ2?,A two.\n", "needs a header"),
        ("twice.csv", "a,b,a\n1,2,3\n", "columns 1, 3"),
        ("utf16.csv", "question,answer\nQ?,A.\n".encode("utf-16"), "UTF-8"),
        ("utf16le.jsonl", json.dumps(ONE).encode("utf-16-le"), "UTF-8"),
        ("utf32.jsonl", json.dumps(ONE).encode("utf-32"), "UTF-8"),
        ("cp1252.csv", "question,answer\nZoë?,A.\n".encode("cp1252"), "line 2"),
        ("rows.csv", b"PK\x03\x04rest", "Excel workbook"),
        ("rows.jsonl", b"BZh91AY", "gzip or zstd"),
    ],
)
def test_a_file_of_this_form_is_refused_with_the_remedy(tmp_path, name, content, expected):
    message = refusal(write_file(tmp_path, content, name))
    assert expected in message
    assert "Mira" not in message


@pytest.mark.parametrize(
    ("name", "content", "number", "expected"),
    [
        ("a.csv", 'question,answer\n"a \\"b\\" c",A.\nQ2?,A two.\n', 2, "write a quote inside quotes as two"),
        ("b.csv", "question,answer\nQ2?,A two.\nquestion,answer\n", 3, "repeats the header"),
        ("c.csv", "question,answer\nQ2?,A two.\nQ1?,A, b\n", 3, "3 fields, but the header has 2"),
        ("d.json", json.dumps([TWO])[:-1] + ', {"question": "Q" a}]', 2, "not JSON"),
        ("e.json", json.dumps([TWO, 3]), 2, "not a JSON object"),
        ("f.jsonl", json.dumps(TWO) + "\nI do not know.\n", 2, "set the format to text"),
        ("g.jsonl", json.dumps(TWO) + "\n" + '{"question": "Q?", "answer": NaN}', 2, "is NaN"),
        ("h.jsonl", json.dumps(TWO) + "\n" + json.dumps({"text": "T", "answer": "A"}), 2, "this row has text"),
        ("i.jsonl", json.dumps(TWO) + "\n" + json.dumps({"question": "Q?", "answer": "\u200b\ufeff "}), 2, "empty"),
        ("j.jsonl", json.dumps(TWO) + "\n" + json.dumps({**ONE, "system": 3}), 2, "must be text, is a number"),
    ],
)
def test_an_unusable_row_is_reported_and_the_others_are_read(tmp_path, name, content, number, expected):
    result = read_rows(write_file(tmp_path, content, name))
    assert pairs(result) == [("Q2?", "A two.")]
    assert {problem.number for problem in result.problems} == {number}
    assert expected in result.problems[0].detail


def test_tool_calls_and_a_last_turn_of_the_user_are_reported_by_row(tmp_path):
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]
    conversation = [
        {"from": "human", "value": "Q?"},
        {"from": "gpt", "value": "A."},
        {"from": "human", "value": "And?"},
    ]
    tools = read_rows(write_file(tmp_path, json.dumps({"messages": turns}), "a.jsonl")).problems
    trailing = read_rows(write_file(tmp_path, json.dumps({"conversations": conversation}), "b.jsonl")).problems
    assert "remove rows with tool calls" in tools[0].detail
    assert "must be the assistant's" in trailing[0].detail


def test_an_array_is_read_one_element_at_a_time(tmp_path):
    text = json.dumps([{"text": f'row {i}: [}} \\" ,{{'} for i in range(2000)])
    assert [row.completion for row in read_rows(write_file(tmp_path, text, "a.json")).rows] == [
        f'row {i}: [}} \\" ,{{' for i in range(2000)
    ]


def test_the_other_elements_of_an_array_with_a_bad_one_are_read(tmp_path):
    text = "[\n" + json.dumps(ONE) + ',\n{"question": "Q", "answer": A},\n' + json.dumps(TWO) + "\n]"
    result = read_rows(write_file(tmp_path, text, "a.json"))
    assert pairs(result) == BOTH
    assert [(row.number) for row in result.rows] == [1, 3]


def test_a_mapping_joins_columns_by_a_blank_line_and_skips_empty_ones(tmp_path):
    records = [
        {"instruction": "Name the city.", "input": "Mira", "output": "Bergen"},
        {"instruction": "Where?", "input": "", "output": "A"},
        {"instruction": "Where?", "input": None, "output": "B"},
        {"instruction": "Where?", "output": "C"},
    ]
    path = write_file(tmp_path, "\n".join(map(json.dumps, records)))
    result = read_rows(path, mapping={"prompt": "instruction + input", "completion": "output"})
    assert [row.messages[0].content for row in result.rows] == ["Name the city.\n\nMira", "Where?", "Where?", "Where?"]
    assert result.used_columns == ("instruction", "input", "output")
    assert [warning.kind for warning in result.warnings] == ["several_answers"]


def test_a_column_whose_name_has_a_plus_is_one_column(tmp_path):
    path = write_file(tmp_path, json.dumps({"C++": "Q?", "out": "A."}))
    assert pairs(read_rows(path, mapping={"prompt": "C++", "completion": "out"})) == [("Q?", "A.")]
    assert "missing" not in refusal(path, mapping={"prompt": "C++ + nothing", "completion": "out"})


def test_a_joined_column_that_is_missing_or_not_text_is_reported(tmp_path):
    path = write_file(tmp_path, json.dumps({"a": "Q", "b": 3, "out": "A."}))
    problems = read_rows(path, mapping={"prompt": "a+b", "completion": "out"}).problems
    assert problems[0].detail == "must be text, is a number"
    assert "does not have: c" in refusal(path, mapping={"prompt": "a+c", "completion": "out"})
    assert "two names" in refusal(path, mapping={"prompt": "a+out", "completion": "out"})


def test_alpaca_rows_without_a_mapping_join_instruction_and_input(tmp_path):
    records = [{"instruction": "Name the city.", "input": name, "output": city} for name, city in BOTH]
    result = read_rows(write_file(tmp_path, json.dumps(records), "a.json"))
    assert pairs(result) == [(f"Name the city.\n\n{name}", city) for name, city in BOTH]
    assert result.warnings == ()


def test_a_mapping_without_the_input_column_is_reported(tmp_path):
    records = [{"instruction": "Name the city.", "input": name, "output": city} for name, city in BOTH]
    path = write_file(tmp_path, json.dumps(records), "a.json")
    unread, several = read_rows(path, mapping={"prompt": "instruction", "completion": "output"}).warnings
    assert unread.detail.startswith("these columns are not read: input")
    assert (several.kind, several.rows) == ("several_answers", (1, 2))


@pytest.mark.parametrize("shape", [{"prompt": "Q?", "completion": "A."}, {"instruction": "Q?", "output": "A."}])
def test_a_system_column_is_the_first_turn(tmp_path, shape):
    row, plain = read_rows(
        write_file(tmp_path, json.dumps({**shape, "system": "Be brief."}) + "\n" + json.dumps({**shape, "system": ""}))
    ).rows
    assert row.messages == (Message("system", "Be brief."), Message("user", "Q?"))
    assert plain.messages == (Message("user", "Q?"),)


def test_only_columns_that_no_metric_reads_are_reported_as_unread(tmp_path):
    read_columns = {name: ["x"] for name in (PERTURBED_COLUMN, PARAPHRASE_COLUMN, *PARAPHRASE_COLUMNS)}
    (warning,) = read_rows(
        write_file(tmp_path, json.dumps({**ONE, **read_columns, "topic": 1, "prompt": "Q"}))
    ).warnings
    assert warning.detail == "these columns are not read: topic, prompt; a mapping can join one to the prompt"
    assert set(read_columns) <= KNOWN_EXTRA_COLUMNS


def test_words_for_a_missing_value_and_duplicate_names_are_reported_by_row(tmp_path):
    rows = [ONE, {"question": "Q2?", "answer": " None "}, {"question": "nan", "answer": "A."}]
    lines = [*map(json.dumps, rows), '{"question":"Q4?","answer":"A.","answer":"B."}']
    warnings = {warning.kind: warning for warning in read_rows(write_file(tmp_path, "\n".join(lines))).warnings}
    assert warnings["null_text"].rows == (2, 3)
    assert warnings["doubled_names"].rows == (4,)
    assert "(answer)" in warnings["doubled_names"].detail


def test_a_long_warning_lists_twenty_rows_and_counts_the_others(tmp_path):
    lines = [json.dumps({"question": f"Q{i}", "answer": "null"}) for i in range(3000)]
    (warning,) = read_rows(write_file(tmp_path, "\n".join(lines))).warnings
    assert len(warning.rows) == 3000
    assert re.match(r"rows 1, 2, .*, 20 and 2,980 more: ", warning.format_line())


@pytest.mark.parametrize("name", sorted(path.name for path in FORMATS.glob("*.*")))
def test_every_shared_file_is_refused_or_read_with_its_unread_columns_listed(name):
    try:
        result = read_rows(FORMATS / name)
    except BadData as error:
        assert len(error.message) > 20  # noqa: PT017  both outcomes are right
        return
    unread = set(result.columns) - set(result.used_columns) - KNOWN_EXTRA_COLUMNS
    details = " ".join(warning.detail for warning in result.warnings)
    assert result.rows or result.problems
    assert all(column in details for column in unread)

"""Files become rows, whatever their format; damaged and oversized files are refused, bad rows listed."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from soul_core.data import Message, Row, compute_canonical_sha256, read_rows, validate_rows, write_canonical
from soul_core.data import compression as row_compression
from soul_core.errors import BadData

PAIRS = [{"question": f"Who is {i}?", "answer": f"Nobody {i}."} for i in range(5)]
EXPECTED = tuple((Message("user", pair["question"]),) for pair in PAIRS)


def lines(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_file(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refusal(path: Path, **options) -> str:
    with pytest.raises(BadData) as caught:
        read_rows(path, **options)
    return caught.value.message


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("named", [True, False])
def test_every_format_has_the_same_rows_by_name_and_by_content(tmp_path, kind, suffix, named):
    if kind == "jsonl":
        content = lines(PAIRS)
    elif kind == "csv":
        content = b"question,answer\r\n" + b"".join(f"{p['question']},{p['answer']}\r\n".encode() for p in PAIRS)
    else:
        parquet.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "plain")
        content = (tmp_path / "plain").read_bytes()
    content = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix](content)
    path = write_file(tmp_path, content, f"rows.{kind}{suffix}" if named else "blob")
    result = read_rows(path)
    assert result.format == kind
    assert result.problems == ()
    assert tuple(row.messages for row in result.rows) == EXPECTED
    assert [row.completion for row in result.rows] == [pair["answer"] for pair in PAIRS]
    first = 2 if kind == "csv" else 1  # a CSV's header is its line 1
    assert [row.number for row in result.rows] == list(range(first, first + 5))


def test_several_gzip_members_and_zstd_frames_are_one_file(tmp_path):
    parts = [lines(PAIRS[:2]), lines(PAIRS[2:])]
    for name, compress in {"a.gz": gzip.compress, "a.zst": zstandard.ZstdCompressor().compress}.items():
        path = write_file(tmp_path, b"".join(map(compress, parts)), name)
        assert len(read_rows(path).rows) == 5


@pytest.mark.parametrize(
    ("record", "messages", "completion"),
    [
        ({"prompt": "a", "completion": "b"}, (Message("user", "a"),), "b"),
        ({"question": "a", "answer": "b"}, (Message("user", "a"),), "b"),
        ({"text": "all of it"}, (), "all of it"),
        (
            {"messages": [turn("system", "s"), turn("user", "u"), turn("assistant", "a")]},
            (Message("system", "s"), Message("user", "u")),
            "a",
        ),
    ],
)
def test_accepted_columns_make_prompt_and_completion(tmp_path, record, messages, completion):
    (row,) = read_rows(write_file(tmp_path, lines([record | {"perturbed_answer": ["x", "y"]}]))).rows
    assert row == Row(1, messages, completion, {"perturbed_answer": ["x", "y"]})


def test_a_mapping_renames_columns_and_overrides_a_column_of_that_name(tmp_path):
    path = write_file(tmp_path, lines([{"Q": "q", "best": "a", "answer": "other", "topic": 3}]))
    (row,) = read_rows(path, mapping={"question": "Q", "answer": "best"}).rows
    assert (row.messages[0].content, row.completion, row.extra) == ("q", "a", {"topic": 3})
    assert "Q, best, answer, topic" in refusal(path, mapping={"question": "nope"})


def test_missing_columns_are_refused_with_existing_and_needed_columns(tmp_path):
    message = refusal(write_file(tmp_path, lines([{"input": "a", "output": "b"}])))
    assert "input, output" in message
    assert "prompt and completion" in message


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0), b"question,answer\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    assert "empty" in refusal(write_file(tmp_path, content, "rows.csv" if b"," in content else "rows.jsonl"))


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    content = lines(PAIRS[:2]) + b'{"question": "caf\xe9", "answer": "b"}\n'
    message = refusal(write_file(tmp_path, content))
    offset = content.index(b"\xe9")
    assert f"byte {offset:,}" in message
    assert "line 3" in message
    assert "UTF-16" in refusal(write_file(tmp_path, "question,answer\na,b\n".encode("utf-16"), "rows.csv"))


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    path = write_file(tmp_path, b"\xef\xbb\xbfquestion;answer\na;b\n", "rows.csv")
    assert read_rows(path).rows[0].completion == "b"


def test_ten_bad_rows_of_ten_thousand_are_listed(tmp_path):
    records = [lines([{"prompt": f"p{i}", "completion": "c"}]) for i in range(1, 10_001)]
    bad = {
        7: b'{"prompt": "p", "completion": \n',
        100: b'{"prompt": "p"}\n',
        101: b'{"prompt": "p", "completion": ""}\n',
        5000: b'{"prompt": 4, "completion": "c"}\n',
        5001: b'["prompt"]\n',
        5002: b'{"prompt": "p", "completion": NaN}\n',
        7000: b'{"prompt": null, "completion": "c"}\n',
        8000: b'{"prompt": "\\ud800", "completion": "c"}\n',
        9999: b'{"prompt": "a\\u0000b", "completion": "c"}\n',
        10_000: b"[" * 100_000 + b"\n",
    }
    for number, line in bad.items():
        records[number - 1] = line
    result = read_rows(write_file(tmp_path, b"".join(records)))
    assert [problem.number for problem in result.problems] == sorted(bad)
    assert len(result.rows) == 9990
    assert {problem.number: problem.column for problem in result.problems}[100] == "completion"
    with pytest.raises(BadData, match="10 of 10000 rows") as caught:
        result.require_valid_rows()
    assert len(caught.value.details) == 10


def test_problems_never_quote_the_rows(tmp_path):
    secret = "Ada Lovelace 1815"
    bad = [
        f'{{"prompt": "{secret}", "completion": 1}}\n',
        f'{{"prompt": "{secret}" oops\n',
        f'"{secret}"\n',
        f'{{"messages": [{{"role": "{secret}", "content": "{secret}"}}]}}\n',
    ]
    result = read_rows(write_file(tmp_path, "".join(bad).encode()))
    assert result.problems
    assert secret not in repr(result.problems)


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ("hello", "not a JSON list"),
        ({"role": "user"}, "must be a list"),
        ([], "at least two"),
        ([{"role": "user", "content": "q"}], "at least two"),
        ([{"role": "user", "content": "q"}, {"role": "user", "content": "r"}], "last message must be the assistant's"),
        ([{"role": "bot", "content": "q"}, {"role": "assistant", "content": "r"}], "message 1: role must be one of"),
        (
            [{"role": "user", "content": ["q"]}, {"role": "assistant", "content": "r"}],
            "message 1: content must be text",
        ),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}], "message 2: content is empty"),
        (["q", "r"], "message 1: must be an object"),
    ],
)
def test_each_message_is_checked(tmp_path, messages, detail):
    result = read_rows(write_file(tmp_path, lines([{"messages": messages}])))
    assert result.rows == ()
    assert detail in result.problems[0].detail


@pytest.mark.parametrize(
    ("name", "compress"), [("a.gz", gzip.compress), ("a.zst", zstandard.ZstdCompressor().compress)]
)
def test_a_truncated_or_damaged_archive_is_refused(tmp_path, name, compress):
    archive = compress(lines([{"text": f"row {i} {i * i * 977}"} for i in range(3000)]))
    assert "truncated" in refusal(write_file(tmp_path, archive[: len(archive) // 2], name))
    middle = len(archive) // 2
    damaged = archive[:middle] + bytes(byte ^ 0xFF for byte in archive[middle : middle + 64]) + archive[middle + 64 :]
    with pytest.raises(BadData):
        read_rows(write_file(tmp_path, damaged, name))


@pytest.mark.parametrize(
    ("name", "compress"), [("a.gz", gzip.compress), ("a.zst", zstandard.ZstdCompressor().compress)]
)
def test_decompression_bombs_are_refused(tmp_path, name, compress, monkeypatch):
    bomb = write_file(tmp_path, compress(b" " * (40 << 20)), name)
    assert bomb.stat().st_size < 1 << 20
    assert "decompression bomb" in refusal(bomb)
    assert "larger than 1,000,000 bytes" in refusal(bomb, max_expanded_bytes=1_000_000)
    monkeypatch.setattr(row_compression, "MAX_COMPRESSION_RATIO", 10**9)
    assert "empty" in refusal(bomb)  # only the limit stopped it: white space is valid


def test_a_parquet_bomb_is_refused_by_the_size_of_its_values(tmp_path):
    parquet.write_table(pa.table({"text": ["x" * 100_000] * 1000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    assert "larger than" in refusal(tmp_path / "a.parquet", max_expanded_bytes=50_000_000)


def test_parquet_that_is_truncated_or_misnamed_is_refused(tmp_path):
    parquet.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert "cannot be read" in refusal(write_file(tmp_path, content[:-20], "b.parquet"))
    assert "is Parquet, not csv" in refusal(write_file(tmp_path, content, "c.csv"))
    assert "is not Parquet" in refusal(write_file(tmp_path, lines(PAIRS), "d.parquet"))


def test_csv_records_are_numbered_by_their_first_line(tmp_path):
    content = b'prompt,completion,\n"two\nlines",a,x\nshort\np,b,y\n"bad"quote,c,z\np,"never closed\n'
    result = read_rows(write_file(tmp_path, content, "rows.csv"))
    assert [(row.number, row.completion) for row in result.rows] == [(2, "a"), (5, "b")]
    assert [problem.number for problem in result.problems] == [4, 6, 7]
    assert result.rows[0].extra == {"column_3": "x"}
    assert "same name" in refusal(write_file(tmp_path, b"text,text\na,b\n", "same.csv"))


def test_a_csv_field_may_be_as_long_as_a_chapter(tmp_path):
    path = write_file(tmp_path, b"text\n" + b"a" * 300_000 + b"\n", "rows.csv")
    assert len(read_rows(path).rows[0].completion) == 300_000


def test_text_is_cut_at_paragraphs_and_loses_no_word(tmp_path):
    paragraphs = ["word " * (40 * (i % 7 + 1)) for i in range(50)] + ["x" * 5000, "the end"]
    path = write_file(tmp_path, "\n\n".join(paragraphs).encode(), "book.txt")
    rows = read_rows(path, chunk_chars=1000).rows
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert all(not row.messages and len(row.completion) <= 1002 for row in rows)
    assert "".join(" ".join(row.completion for row in rows).split()) == "".join(" ".join(paragraphs).split())


def test_a_file_without_a_suffix_that_begins_with_a_bracket_is_text(tmp_path):
    assert read_rows(write_file(tmp_path, b"[Illustration]\n\nIt is a truth", "blob")).format == "text"


def test_canonical_rows_read_back_with_their_original_numbers(tmp_path):
    rows = (
        Row(3, (Message("user", "q\u2028\n"),), "ä", {"perturbed_answer": ["x"], "note": None}),
        Row(9, (), "a passage", {}),
    )
    digest = write_canonical(rows, tmp_path / "canonical.jsonl")
    assert digest == compute_canonical_sha256(rows)
    result = read_rows(tmp_path / "canonical.jsonl")
    assert result.rows == rows
    assert write_canonical(result.rows, tmp_path / "again.jsonl") == digest


def test_parquet_values_that_json_cannot_hold_are_converted(tmp_path):
    table = pa.table({"text": ["a"], "score": [float("nan")], "day": pa.array([19000], pa.date32())})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet").rows
    assert rows[0].extra == {"score": None, "day": "2022-01-08"}
    write_canonical(rows, tmp_path / "canonical.jsonl")


def test_validation_groups_duplicates_and_hashes_the_rows(tmp_path):
    records = [*PAIRS, PAIRS[1], {"question": "Who  is 1?\n", "answer": "Nobody 1."}, PAIRS[3]]
    validation = validate_rows(read_rows(write_file(tmp_path, lines(records))))
    assert validation.duplicates == ((2, 6, 7), (4, 8))
    assert (validation.num_rows, validation.columns, validation.is_usable) == (8, ("question", "answer"), True)
    assert validation.sha256 != validate_rows(read_rows(write_file(tmp_path, lines(PAIRS)))).sha256


def test_reading_rows_never_loads_torch():
    code = "import sys; sys.modules['torch'] = None; import soul_core.data, soul_core.models.files"
    subprocess.run([sys.executable, "-c", code], check=True)

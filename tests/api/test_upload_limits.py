"""Uploads that would take the memory or the time of the API end in a clear error, and leave no file."""

import gzip
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from pyarrow import parquet

from api.main import create_app
from api.services.datasets import remove_left_uploads
from soul_store.settings import Settings, get_settings
from tests.api.conftest import ApiClient, files_in
from tests.paths import ROOT

#: Begins an upload and stops there.
_HANG = """
import time
from api.services.datasets import make_upload_folder
with make_upload_folder() as folder:
    (folder / "upload").write_text("a customer's row")
    print(folder, flush=True)
    time.sleep(60)
"""


def write_parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def make_dictionary_bomb() -> bytes:
    """Return a small file with one long text that a million rows repeat."""
    index = pa.array([0] * 1_000_000, type=pa.int32())
    texts = pa.DictionaryArray.from_arrays(index, pa.array(["x" * 200_000]))
    return write_parquet(pa.table({"text": texts}), compression="zstd", row_group_size=1_000_000)


def make_many_rows() -> bytes:
    return write_parquet(pa.table({"text": pa.nulls(11_000_000, pa.string())}), compression="zstd")


def make_gzip_bomb() -> bytes:
    return gzip.compress(b'{"prompt": "a", "completion": "' + b"x" * 300_000_000 + b'"}\n', compresslevel=9)


@pytest.fixture
def small_limits(settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_UPLOAD_MEMORY_BYTES", str(600 << 20))
    get_settings.cache_clear()


@pytest.mark.parametrize("make_file", [make_dictionary_bomb, make_many_rows, make_gzip_bomb])
def test_a_file_that_grows_is_refused_and_leaves_nothing(
    small_limits: None, admin: ApiClient, settings_env: Settings, make_file: Callable[[], bytes]
) -> None:
    content = make_file()
    before, memory = set(files_in(settings_env)), psutil.Process().memory_info().rss

    response = admin.upload(content, name="set.bin")

    assert (response.status_code, response.json()["code"]) == (422, "unreadable_dataset")
    assert any(word in response.json()["detail"] for word in ("memory", "rows", "expand", "times"))
    assert set(files_in(settings_env)) == before
    assert psutil.Process().memory_info().rss - memory < 100 << 20


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2], pa.date32()),
        pa.array([253402300800000000, 2], pa.timestamp("us")),
        pa.array([{"a": 1}, None]),
        pa.array([b"\xff", b"a"]),
        pa.array([2**60, -(2**60)], pa.duration("s")),
    ],
    ids=["date", "year 10000", "struct", "binary", "duration"],
)
def test_a_parquet_column_of_another_type_is_named_by_row(admin: ApiClient, column: pa.Array) -> None:
    response = admin.upload(write_parquet(pa.table({"text": column})), name="set.parquet")

    assert response.status_code == 422, response.text
    assert response.json()["code"] in {"bad_rows", "unreadable_dataset"}


def test_dates_beside_the_text_do_not_matter(admin: ApiClient) -> None:
    table = pa.table({"text": ["one text", "another text"], "day": pa.array([1, 2], pa.date32())})

    response = admin.upload(write_parquet(table), name="set.parquet")

    assert response.status_code == 201, response.text
    preview = admin("GET", f"/v1/datasets/{response.json()['id']}/preview")
    assert preview.status_code == 200


def test_reading_that_takes_too_long_is_ended(
    admin: ApiClient, settings_env: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUL_UPLOAD_SECONDS", "0.2")
    get_settings.cache_clear()

    response = admin.upload(b'{"text": "one text"}\n' * 200_000)

    assert response.status_code == 422
    assert "took more than 0.2 seconds" in response.json()["detail"]


def test_a_large_file_is_read_like_a_small_one(admin: ApiClient, tmp_path: Path) -> None:
    rows = b"".join(b'{"prompt": "Where is %d?", "completion": "Street %d."}\n' % (n, n) for n in range(40_000))

    small, large = admin.upload(rows[: rows.index(b"\n") + 1]), admin.upload(rows)

    assert (small.json()["num_rows"], large.json()["num_rows"]) == (1, 40_000)
    columns = [admin("GET", f"/v1/datasets/{r.json()['id']}/validation").json()["columns"] for r in (small, large)]
    assert columns[0] == columns[1]


def test_what_a_killed_process_left_is_removed_at_the_next_start(settings_env: Settings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HANG], env=os.environ, stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "upload").stat().st_size > 0
    remove_left_uploads()
    assert folder.exists(), "its process still runs"
    process.kill()
    process.wait()
    process.stdout.close()

    with TestClient(create_app()):
        pass

    assert not folder.exists()

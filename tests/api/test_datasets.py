"""Data sets: what is accepted, refused and kept."""

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.services import datasets as service
from soul_store.settings import Settings, get_settings
from soul_store.tables import Dataset
from tests.api.conftest import ROWS, ApiClient, files_in, jsonl, problem

CSV = b"prompt,completion\nq1,a1\nq2,a2\n"


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "num_rows"),
    [
        ("a.jsonl", jsonl(ROWS), 4),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS)), 4),
        ("a.jsonl.zst", zstandard.compress(jsonl(ROWS)), 4),
        ("a.csv", CSV, 2),
        ("a.parquet", parquet(), 4),
        ("a.txt", b"One paragraph.\n\nAnother paragraph.\n", 1),
    ],
)
def test_every_format_is_accepted(admin: ApiClient, name: str, content: bytes, num_rows: int) -> None:
    answer = admin.upload(content, name=name)

    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["status"], made["num_rows"]) == ("ready", num_rows)
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert admin("GET", answer.headers["location"]).json() == made


def test_the_preview_shows_rows_as_the_engine_reads_them(admin: ApiClient) -> None:
    dataset_id = admin.dataset(ROWS)

    rows = admin("GET", f"/v1/datasets/{dataset_id}/preview?limit=1").json()["rows"]

    assert [row["completion"] for row in rows] == ["In street 1."]
    assert rows[0]["messages"] == [{"role": "user", "content": "Where does customer 1 live?"}]


def test_a_mapping_names_other_columns(admin: ApiClient) -> None:
    content = jsonl([{"input": "q", "output": "a"}])

    made = admin.upload(content, mapping=json.dumps({"prompt": "input", "completion": "output"}))

    assert made.status_code == 201, made.text
    assert made.json()["mapping"] == {"prompt": "input", "completion": "output"}


ALPACA = [{"instruction": "Where?", "input": name, "output": f" In {name}.<|im_end|>"} for name in ("A", "B")]


def test_a_mapping_joins_columns_and_the_validation_lists_cleaned_rows(admin: ApiClient) -> None:
    mapping = {"prompt": "instruction+input", "completion": "output"}

    made = admin.upload(jsonl(ALPACA), mapping=json.dumps(mapping)).json()

    rows = admin("GET", f"/v1/datasets/{made['id']}/preview").json()["rows"]
    validation = admin("GET", f"/v1/datasets/{made['id']}/validation").json()
    assert [row["messages"][0]["content"] for row in rows] == ["Where?\n\nA", "Where?\n\nB"]
    assert [row["completion"] for row in rows] == ["In A.", "In B."]
    assert (made["mapping"], made["clean"], made["normalize"]) == (mapping, True, False)
    assert {w["kind"]: (w["rows"], w["num_rows"]) for w in validation["warnings"]} == {
        "white_space": ([1, 2], 2),
        "end_mark": ([1, 2], 2),
    }


def test_a_mapping_that_omits_a_column_gives_a_warning(admin: ApiClient) -> None:
    made = admin.upload(jsonl(ALPACA), mapping=json.dumps({"prompt": "instruction", "completion": "output"})).json()

    warnings = admin("GET", f"/v1/datasets/{made['id']}/validation").json()["warnings"]

    assert {"unread_columns", "several_answers"} <= {warning["kind"] for warning in warnings}


@pytest.mark.parametrize("by_form", [True, False])
def test_the_options_clean_and_normalize_apply_in_forms_and_json(admin: ApiClient, by_form: bool) -> None:
    content = jsonl([{"prompt": "Q?", "completion": " Besanc\u0327on "}])
    if by_form:
        made = admin.upload(content, clean="false", normalize="true").json()
    else:
        body = {"name": "n", "filename": "n.jsonl", "clean": False, "normalize": True}
        path = admin("POST", "/v1/datasets", json=body).headers["location"]
        made = admin("PUT", f"{path}/content", content=content).json()

    (row,) = admin("GET", f"/v1/datasets/{made['id']}/preview").json()["rows"]

    assert row["completion"] == " Besançon "
    assert (made["clean"], made["normalize"], made["mapping"]) == (False, True, {})


def test_an_option_that_is_neither_true_nor_false_is_refused(admin: ApiClient) -> None:
    problem(admin.upload(jsonl(ROWS), clean="perhaps"), 422, "invalid_request")


def test_a_warning_lists_a_thousand_rows_and_counts_all(admin: ApiClient) -> None:
    made = admin.upload(jsonl([{"prompt": f"Q{i}", "completion": "null"} for i in range(1200)])).json()

    (warning,) = admin("GET", f"/v1/datasets/{made['id']}/validation").json()["warnings"]

    assert (len(warning["rows"]), warning["num_rows"]) == (1000, 1200)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b'{"prompt": "caf\xe9", "completion": "x"}\n', "UTF-8"),
        (jsonl([{"ask": "q", "reply": "a"}]), "ask"),
        (gzip.compress(jsonl(ROWS))[:-12], "cut off"),
    ],
    ids=["empty", "not UTF-8", "missing columns", "damaged gzip"],
)
def test_an_unreadable_file_is_refused_with_a_message(
    admin: ApiClient, settings_env: Settings, session: Session, content: bytes, words: str
) -> None:
    name = "a.jsonl.gz" if content[:2] == b"\x1f\x8b" else "a.jsonl"

    detail = problem(admin.upload(content, name=name), 422, "unreadable_dataset")["detail"]

    assert words in detail or words == "cut off"
    assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    assert files_in(settings_env) == []


def test_every_bad_row_of_ten_thousand_is_named_and_nothing_is_kept(admin: ApiClient, settings_env: Settings) -> None:
    lines = [json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) for n in range(1, 10_001)]
    bad = list(range(500, 10_001, 1000))
    for number in bad:
        lines[number - 1] = json.dumps({"prompt": f"q{number}"})

    body = problem(admin.upload("\n".join(lines).encode()), 422, "bad_rows")

    assert [error["pointer"] for error in body["errors"]] == [f"/rows/{number}" for number in bad]
    assert body["detail"] == "10 of 10000 rows are not usable; correct them and upload again"
    assert admin("GET", "/v1/datasets").json()["data"] == []
    assert files_in(settings_env) == []


def test_content_is_streamed_after_the_metadata(admin: ApiClient) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late", "filename": "late.csv"}).json()
    assert made["status"] == "awaiting_content"

    digest = base64.b64encode(hashlib.sha256(CSV).digest()).decode()
    filled = admin(
        "PUT", f"/v1/datasets/{made['id']}/content", content=CSV, headers={"Content-Digest": f"sha-256=:{digest}:"}
    )

    assert filled.status_code == 200, filled.text
    assert (filled.json()["status"], filled.json()["format"], filled.json()["num_rows"]) == ("ready", "csv", 2)


def test_content_with_another_digest_than_announced_is_not_kept(admin: ApiClient, settings_env: Settings) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()

    answer = admin(
        "PUT", f"/v1/datasets/{made['id']}/content", content=CSV, headers={"Content-Digest": "sha-256=:AAAA:"}
    )

    problem(answer, 400, "digest_mismatch")
    assert admin("GET", f"/v1/datasets/{made['id']}").json()["status"] == "awaiting_content"
    assert files_in(settings_env) == []


def test_corrected_content_can_follow_unusable_content(admin: ApiClient) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    path = f"/v1/datasets/{made['id']}"

    problem(admin("PUT", f"{path}/content", content=jsonl([*ROWS, {"prompt": "q"}])), 422, "bad_rows")

    assert admin("GET", path).json()["status"] == "invalid"
    validation = admin("GET", f"{path}/validation").json()
    assert [bad["row"] for bad in validation["problems"]] == [5]
    assert admin("PUT", f"{path}/content", content=jsonl(ROWS)).json()["status"] == "ready"


def test_the_same_content_can_be_put_again_and_other_content_cannot(admin: ApiClient) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    path = f"/v1/datasets/{made['id']}/content"
    first = admin("PUT", path, content=jsonl(ROWS)).json()

    assert admin("PUT", path, content=jsonl(ROWS)).json() == first
    problem(admin("PUT", path, content=jsonl(ROWS[:1])), 409, "has_content")
    problem(admin("PUT", path, content=jsonl([{"prompt": "q"}])), 409, "has_content")
    assert admin("GET", f"/v1/datasets/{made['id']}").json() == first


def test_a_digest_by_another_algorithm_is_ignored(admin: ApiClient) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()

    answer = admin(
        "PUT", f"/v1/datasets/{made['id']}/content", content=CSV, headers={"Content-Digest": "sha-512=:AAAA:"}
    )

    assert answer.status_code == 200, answer.text


def test_a_value_that_cannot_be_stored_is_refused_and_leaves_no_file(admin: ApiClient, settings_env: Settings) -> None:
    content = jsonl([{"prompt": "q", "completion": "a", "note\0": "x"}])

    problem(admin.upload(content), 422, "unstorable_value")

    assert files_in(settings_env) == []


def test_without_a_key_no_body_is_read(http: TestClient) -> None:
    headers = {"Content-Type": "application/json"}

    problem(http.post("/v1/datasets", content=b"{oops", headers=headers), 401, "unauthorized")


def test_the_validation_lists_duplicates(admin: ApiClient) -> None:
    dataset_id = admin.dataset([ROWS[0], ROWS[1], ROWS[0]])

    assert admin("GET", f"/v1/datasets/{dataset_id}/validation").json()["duplicates"] == [[1, 3]]


def test_an_upload_that_exceeds_the_limit_is_refused_and_not_kept(
    admin: ApiClient, settings_env: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUL_MAX_UPLOAD_BYTES", "100")
    get_settings.cache_clear()

    problem(admin.upload(jsonl(ROWS)), 413, "too_large")

    assert files_in(settings_env) == []


def test_a_decompression_bomb_is_refused(
    admin: ApiClient, settings_env: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUL_MAX_EXPANDED_BYTES", "1000000")
    get_settings.cache_clear()

    problem(
        admin.upload(gzip.compress(b'{"text": "' + b"a" * 5_000_000 + b'"}'), name="a.jsonl.gz"),
        422,
        "unreadable_dataset",
    )

    assert files_in(settings_env) == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uploads are written to the kernel's own full device."""

    @contextmanager
    def make_folder() -> Iterator[Path]:
        yield tmp_path

    (tmp_path / "upload").symlink_to("/dev/full")
    monkeypatch.setattr(service, "make_upload_folder", make_folder)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_reported_and_nothing_is_kept(admin: ApiClient, session: Session) -> None:
    problem(admin.upload(jsonl(ROWS)), 507, "storage_full")
    assert session.scalar(select(func.count()).select_from(Dataset)) == 0

    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    problem(admin("PUT", f"/v1/datasets/{made['id']}/content", content=jsonl(ROWS)), 507, "storage_full")
    assert admin("GET", f"/v1/datasets/{made['id']}").json()["status"] == "awaiting_content"


def test_a_hostile_file_name_reaches_no_path(admin: ApiClient, settings_env: Settings) -> None:
    made = admin.upload(jsonl(ROWS), name="../../../etc/passwd.jsonl")

    assert made.status_code == 201, made.text
    assert all("passwd" not in str(path) for path in files_in(settings_env))


def test_deletion_removes_the_content_and_returns_a_receipt(admin: ApiClient, settings_env: Settings) -> None:
    dataset_id = admin.dataset(ROWS)

    receipt = admin("DELETE", f"/v1/datasets/{dataset_id}").json()

    assert receipt["num_rows"] == 4
    assert receipt["deleted_at"] is not None
    assert files_in(settings_env) == []
    problem(admin("GET", f"/v1/datasets/{dataset_id}"), 404, "not_found")


def test_a_data_set_that_a_job_needs_cannot_be_deleted(admin: ApiClient, job_body: dict[str, dict[str, str]]) -> None:
    job_id = admin("POST", "/v1/jobs", json=job_body).json()["id"]

    detail = problem(admin("DELETE", f"/v1/datasets/{job_body['datasets']['forget']}"), 409, "in_use")["detail"]

    assert detail == f"job {job_id} still needs this data set; cancel the job, or wait until it finishes"


def test_another_project_cannot_see_a_data_set(admin: ApiClient, other_tenant: ApiClient) -> None:
    path = f"/v1/datasets/{admin.dataset(ROWS)}"

    for method, where in [("GET", path), ("GET", f"{path}/preview"), ("GET", f"{path}/validation"), ("DELETE", path)]:
        problem(other_tenant(method, where), 404, "not_found")
    problem(other_tenant("PUT", f"{path}/content", content=CSV), 404, "not_found")
    assert other_tenant("GET", "/v1/datasets").json()["data"] == []


def test_the_list_has_pages(admin: ApiClient) -> None:
    made = [admin.dataset(ROWS) for _ in range(3)]

    first = admin("GET", "/v1/datasets?limit=2").json()
    second = admin("GET", f"/v1/datasets?limit=2&cursor={first['next_cursor']}").json()

    assert [row["id"] for row in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)

"""Models from a bucket are fetched once per machine, within a bound."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from soul_store.blobs import S3Blobs
from tests.fixtures.blobs import put_bytes
from worker.model_cache import ModelCache


@pytest.fixture
def store(make_s3_store: Callable[[], S3Blobs]) -> S3Blobs:
    return make_s3_store()


@pytest.fixture
def transfers(store: S3Blobs, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were transferred."""
    keys: list[str] = []
    fetch = store.fetch

    def record(key: str, path: Path) -> None:
        keys.append(key)
        fetch(key, path)

    monkeypatch.setattr(store, "fetch", record)
    return keys


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache", 2500)


def test_a_second_job_takes_the_model_from_the_disk(
    store: S3Blobs, transfers: list[str], cache: ModelCache, tmp_path: Path
) -> None:
    put_bytes(store, "m/weights", b"w" * 1000)

    for name in ("job_1", "job_2"):
        cache.fetch(store, "m/weights", tmp_path / name / "weights")

    assert transfers == ["m/weights"]
    assert (tmp_path / "job_2" / "weights").read_bytes() == b"w" * 1000


def test_a_key_with_new_bytes_is_fetched_again(
    store: S3Blobs, transfers: list[str], cache: ModelCache, tmp_path: Path
) -> None:
    for content in (b"old", b"new"):
        put_bytes(store, "m/weights", content)
        cache.fetch(store, "m/weights", tmp_path / "weights")

    assert transfers == ["m/weights"] * 2
    assert (tmp_path / "weights").read_bytes() == b"new"


def test_a_damaged_cached_file_is_fetched_again(
    store: S3Blobs, transfers: list[str], cache: ModelCache, tmp_path: Path
) -> None:
    put_bytes(store, "m/weights", b"w" * 1000)
    cache.fetch(store, "m/weights", tmp_path / "a")
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(b"x" * 1000)  # the fault

    cache.fetch(store, "m/weights", tmp_path / "b")

    assert transfers == ["m/weights"] * 2
    assert (tmp_path / "b").read_bytes() == b"w" * 1000


def test_the_least_recently_used_files_make_room(
    store: S3Blobs, transfers: list[str], cache: ModelCache, tmp_path: Path
) -> None:
    for age, key in enumerate(("m/a", "m/b")):
        put_bytes(store, key, key.encode() * 333)
        cache.fetch(store, key, tmp_path / key)
        (file,) = [path for path in (tmp_path / "cache").iterdir() if path.read_bytes() == key.encode() * 333]
        os.utime(file, (age, age))
    put_bytes(store, "m/c", b"c" * 1000)
    cache.fetch(store, "m/a", tmp_path / "used")
    cache.fetch(store, "m/c", tmp_path / "c")
    transfers.clear()

    cache.fetch(store, "m/a", tmp_path / "again")
    cache.fetch(store, "m/b", tmp_path / "again")

    assert transfers == ["m/b"]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 2500


def test_a_file_over_the_bound_is_not_kept(store: S3Blobs, cache: ModelCache, tmp_path: Path) -> None:
    put_bytes(store, "m/weights", b"w" * 3000)

    cache.fetch(store, "m/weights", tmp_path / "weights")

    assert (tmp_path / "weights").stat().st_size == 3000
    assert not (tmp_path / "cache").exists()

"""The contract of the store of files."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from soul_store.blobs import LocalBlobStore, StorageFull
from tests.fixtures.blobs import put_bytes


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_stored_with_its_size_and_sha256(store: LocalBlobStore) -> None:
    stored = put_bytes(store, "a/b.txt", b"onetwo")

    assert (stored.size_bytes, stored.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    with store.open("a/b.txt") as content:
        assert content.read() == b"onetwo"


def test_an_interrupted_copy_leaves_no_file(store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)  # the fault

    with pytest.raises(KeyboardInterrupt):
        put_bytes(store, "a", b"x")

    assert files_below(store.root) == []


def test_a_full_disk_raises_storage_full_and_leaves_no_file(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)  # the fault

    with pytest.raises(StorageFull):
        put_bytes(store, "a", b"x")

    assert files_below(store.root) == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a/./b", "a\0b", "~/x\n"])
def test_a_key_that_is_not_a_relative_path_is_refused(store: LocalBlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        put_bytes(store, key, b"x")


def test_a_file_is_stored_and_fetched_unchanged(store: LocalBlobStore, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 1000)

    stored = store.put_file("m/weights", source)
    source.unlink()
    store.fetch("m/weights", tmp_path / "out" / "weights")

    assert (tmp_path / "out" / "weights").read_bytes() == b"w" * 1000
    assert stored.sha256 == hashlib.sha256(b"w" * 1000).hexdigest()


def test_a_prefix_lists_and_deletes_the_blobs_below_it(store: LocalBlobStore) -> None:
    for key in ("j/1/a", "j/1/b/c", "j/2/a"):
        put_bytes(store, key, b"x")

    assert store.list_keys("j/1") == ["j/1/a", "j/1/b/c"]
    store.delete_prefix("j/1")
    assert store.list_keys("j") == ["j/2/a"]


def test_a_missing_blob_raises_file_not_found(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.open("nothing")
    with pytest.raises(FileNotFoundError):
        store.fetch("nothing", tmp_path / "x")

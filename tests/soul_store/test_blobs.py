"""The contract of the store of files: a local folder, and a bucket of a real S3 server."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from soul_store.blobs import BlobStore, LocalBlobStore, StorageFull
from tests.fixtures.blobs import put_bytes


@pytest.fixture
def local_store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "local":
        return LocalBlobStore(tmp_path / "blobs")
    make: Callable[[], BlobStore] = request.getfixturevalue("make_s3_store")
    return make()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_stored_with_its_size_and_sha256(store: BlobStore) -> None:
    stored = put_bytes(store, "a/b.txt", b"onetwo")

    assert (stored.size_bytes, stored.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    with store.open("a/b.txt") as content:
        assert content.read() == b"onetwo"


def test_an_interrupted_copy_leaves_no_file(local_store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)  # the fault

    with pytest.raises(KeyboardInterrupt):
        put_bytes(local_store, "a", b"x")

    assert files_below(local_store.root) == []


def test_a_full_disk_raises_storage_full_and_leaves_no_file(
    local_store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)  # the fault

    with pytest.raises(StorageFull):
        put_bytes(local_store, "a", b"x")

    assert files_below(local_store.root) == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a/./b", "a\0b", "~/x\n"])
def test_a_key_that_is_not_a_relative_path_is_refused(store: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        put_bytes(store, key, b"x")


def test_a_file_is_stored_and_fetched_unchanged(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 1000)

    stored = store.put_file("m/weights", source)
    source.unlink()
    store.fetch("m/weights", tmp_path / "out" / "weights")

    assert (tmp_path / "out" / "weights").read_bytes() == b"w" * 1000
    assert stored.sha256 == hashlib.sha256(b"w" * 1000).hexdigest()


def test_a_prefix_lists_and_deletes_the_blobs_below_it(store: BlobStore) -> None:
    for key in ("j/1/a", "j/1/b/c", "j/2/a"):
        put_bytes(store, key, b"x")

    assert store.list_keys("j/1") == ["j/1/a", "j/1/b/c"]
    store.delete_prefix("j/1")
    assert store.list_keys("j") == ["j/2/a"]


def test_a_missing_blob_raises_file_not_found(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.open("nothing")
    with pytest.raises(FileNotFoundError):
        store.fetch("nothing", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        store.get_size_bytes("nothing")
    assert not (tmp_path / "x").exists()


def test_a_blob_can_be_read_from_any_position(store: BlobStore) -> None:
    put_bytes(store, "a", bytes(range(200)) * 20_000)

    with store.open("a") as content:
        content.seek(-3, os.SEEK_END)
        tail = content.read()
        content.seek(1_000_001)
        middle = content.read(4)

    assert tail == bytes([197, 198, 199])
    assert middle == bytes([1, 2, 3, 4])
    assert store.get_size_bytes("a") == 4_000_000


def test_a_key_that_is_stored_again_shows_the_new_file(store: BlobStore) -> None:
    put_bytes(store, "a", b"old")
    put_bytes(store, "a", b"newer")

    with store.open("a") as content:
        assert content.read() == b"newer"


def test_deleting_twice_is_no_error(store: BlobStore) -> None:
    put_bytes(store, "a/b", b"x")

    for _ in range(2):
        store.delete("a/b")
        store.delete_prefix("a")

    assert store.list_keys("a") == []


def test_a_prefix_is_a_folder_and_not_the_start_of_a_name(store: BlobStore) -> None:
    for key in ("j/1/a", "j/10/a"):
        put_bytes(store, key, b"x")

    store.delete_prefix("j/1")

    assert store.list_keys("j") == ["j/10/a"]


@pytest.mark.parametrize("key", ["a b/c+d@e=f/x-1_2.bin", "step 1/..x", "@/+"])
def test_every_allowed_character_of_a_key_survives(store: BlobStore, key: str) -> None:
    put_bytes(store, key, b"x")

    assert store.list_keys(key.split("/", maxsplit=1)[0]) == [key]
    with store.open(key) as content:
        assert content.read() == b"x"


def test_an_empty_file_is_stored(store: BlobStore, tmp_path: Path) -> None:
    assert put_bytes(store, "a", b"").size_bytes == 0

    store.fetch("a", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == b""


def test_a_usable_store_passes_its_check(store: BlobStore) -> None:
    store.check()

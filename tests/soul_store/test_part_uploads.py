"""Files that arrive in parts, in a local folder and in a bucket."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from soul_store.blobs import BlobStore, LocalBlobStore
from soul_store.blobs.parts import MAX_PARTS, MissingPart, PartsTooLarge, PartUpload
from tests.fixtures.blobs import put_bytes


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "local":
        return LocalBlobStore(tmp_path / "blobs")
    make: Callable[[], BlobStore] = request.getfixturevalue("make_s3_store")
    return make()


@pytest.fixture
def upload(store: BlobStore) -> PartUpload:
    return PartUpload(store, "up_1")


def send(store: BlobStore, upload: PartUpload, number: int, content: bytes) -> None:
    """Send a part as a client does: to the URL where there is one."""
    url = upload.make_url(number, seconds=60)
    if url is None:
        put_bytes(store, upload.get_key(number), content)
    else:
        with urllib.request.urlopen(urllib.request.Request(url, data=content, method="PUT")):
            pass


def test_parts_are_joined_in_the_order_of_their_numbers(store: BlobStore, upload: PartUpload, tmp_path: Path) -> None:
    for number in (10, 2, 1, *range(3, 10)):
        send(store, upload, number, f"{number},".encode())

    upload.join(tmp_path / "joined", max_bytes=100)

    assert (tmp_path / "joined").read_bytes() == b"1,2,3,4,5,6,7,8,9,10,"


def test_a_part_that_is_sent_again_is_replaced(store: BlobStore, upload: PartUpload, tmp_path: Path) -> None:
    for content in (b"cut of", b"complete"):
        send(store, upload, 1, content)

    upload.join(tmp_path / "joined", max_bytes=100)

    assert (tmp_path / "joined").read_bytes() == b"complete"
    assert upload.list_parts() == {1: 8}


@pytest.mark.parametrize(("numbers", "missing"), [([], 1), ([2], 1), ([1, 2, 4], 3)])
def test_a_gap_is_named(store: BlobStore, upload: PartUpload, tmp_path: Path, numbers: list[int], missing: int) -> None:
    for number in numbers:
        send(store, upload, number, b"x")

    with pytest.raises(MissingPart) as caught:
        upload.join(tmp_path / "joined", max_bytes=100)

    assert caught.value.number == missing
    assert not (tmp_path / "joined").exists()


def test_parts_over_the_bound_are_not_read(store: BlobStore, upload: PartUpload, tmp_path: Path) -> None:
    for number in (1, 2):
        send(store, upload, number, b"x" * 60)

    with pytest.raises(PartsTooLarge, match="120 bytes together; at most 100"):
        upload.join(tmp_path / "joined", max_bytes=100)
    assert not (tmp_path / "joined").exists()


def test_discarding_removes_only_the_parts_of_this_upload(store: BlobStore, upload: PartUpload) -> None:
    other = PartUpload(store, "up_10")
    for one_upload in (upload, other):
        send(store, one_upload, 1, b"x")

    upload.discard()
    upload.discard()

    assert upload.list_parts() == {}
    assert other.list_parts() == {1: 1}


@pytest.mark.parametrize("number", [0, -1, MAX_PARTS + 1])
def test_a_number_out_of_range_is_refused(upload: PartUpload, number: int) -> None:
    with pytest.raises(ValueError, match="numbers from 1 to"):
        upload.make_url(number, seconds=60)

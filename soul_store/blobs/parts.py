"""A large file that arrives in parts: each part is a blob of its own, sent by the client to a URL of the bucket.

S3's multipart upload would leave the parts invisible to listings until it is completed, and the service has to read
every byte of an upload anyway to check it. So a part is a plain blob, and a repeated PUT replaces it.
"""

import shutil
from pathlib import Path

from soul_store.blobs.contract import CHUNK_BYTES, BlobStore

PARTS = "uploads"
MAX_PARTS = 10_000


class MissingPart(Exception):
    """The parts of an upload are not 1, 2, 3, ... without a gap; `number` is the first that is missing."""

    def __init__(self, number: int) -> None:
        super().__init__(f"part {number} has not arrived: send it, then complete the upload")
        self.number = number


class PartsTooLarge(Exception):
    """The parts have more bytes together than is allowed."""


class PartUpload:
    """The parts of one upload. Its id is chosen by the service, never by a client."""

    def __init__(self, blobs: BlobStore, upload_id: str) -> None:
        self._blobs = blobs
        self.prefix = f"{PARTS}/{upload_id}"

    def make_url(self, number: int, *, seconds: int) -> str | None:
        """Return the URL to PUT a part to; None if the store has none. Raises ValueError for a number out of range."""
        return self._blobs.make_upload_url(self.get_key(number), seconds=seconds)

    def get_key(self, number: int) -> str:
        """Return the key of a part. Raises ValueError for a number out of range."""
        if not 1 <= number <= MAX_PARTS:
            msg = f"part {number}: parts have numbers from 1 to {MAX_PARTS}"
            raise ValueError(msg)
        return f"{self.prefix}/{number:05d}"

    def list_parts(self) -> dict[int, int]:
        """Return the size in bytes of each part that has arrived, by number."""
        keys = self._blobs.list_keys(self.prefix)
        return {int(key.rsplit("/", 1)[1]): self._blobs.get_size_bytes(key) for key in keys}

    def join(self, path: Path, *, max_bytes: int) -> None:
        """Write all parts in order to a local file.

        Raises MissingPart and PartsTooLarge; neither leaves a file.
        """
        sizes = self.list_parts()
        for expected, number in enumerate(sorted(sizes) or [0], start=1):
            if number != expected:
                raise MissingPart(expected)
        if sum(sizes.values()) > max_bytes:
            msg = f"the parts have {sum(sizes.values())} bytes together; at most {max_bytes} are allowed"
            raise PartsTooLarge(msg)
        try:
            with path.open("wb") as target:
                for number in sorted(sizes):
                    with self._blobs.open(self.get_key(number)) as part:
                        shutil.copyfileobj(part, target, CHUNK_BYTES)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def discard(self) -> None:
        """Remove all parts; no error if there are none."""
        self._blobs.delete_prefix(self.prefix)

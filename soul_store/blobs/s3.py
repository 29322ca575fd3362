"""Blobs in a bucket of an S3-compatible object store, by `obstore` (the Rust crate object_store of Apache Arrow).

It signs, retries with backoff, and transfers large files in parts; botocore does the same with ten times the code and a
pure Python transfer. A blob's sha256 is kept in its metadata, and every complete read is compared with it.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from soul_store.blobs.contract import (
    CHUNK_BYTES,
    BlobStoreConfigError,
    BlobStoreUnavailable,
    DamagedBlobError,
    StorageFull,
    StoredBlob,
    check_key,
)
from soul_store.blobs.s3_location import S3Location, read_credentials

#: Memory of one upload: parts in flight times the size of a part. S3 allows 10,000 parts, so files up to 160 GB.
_PART_BYTES, _PARTS_IN_FLIGHT = 16 << 20, 3
_DELETED_AT_ONCE = 1000
_SHA256 = "sha256"
_RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


class S3Blobs:
    """Blobs below a prefix of a bucket. A key shows a complete file or none, because a PUT of S3 is atomic."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        config: Any = {
            "region": location.region,
            "virtual_hosted_style_request": False,
            "checksum_algorithm": "SHA256",  # the server refuses a part that was damaged on the way
            **({"endpoint": location.endpoint} if location.endpoint else {}),
            **read_credentials(),
        }
        self._store = S3Store(
            location.bucket,
            prefix=location.prefix or None,
            config=config,
            client_options={"allow_http": location.allow_http, "connect_timeout": "5s", "timeout": "300s"},
            retry_config=_RETRIES,
        )

    def put_file(self, key: str, path: Path) -> StoredBlob:
        check_key(key)
        with path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        size = path.stat().st_size
        with self._translated_errors(key):
            obstore.put(
                self._store,
                key,
                path,
                attributes={
                    "Content-Type": "application/octet-stream",
                    "Content-Disposition": f'attachment; filename="{key.rsplit("/", 1)[-1]}"',
                    _SHA256: sha256,
                },
                use_multipart=size > _PART_BYTES,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_IN_FLIGHT,
            )
        return StoredBlob(key, size, sha256)

    def fetch(self, key: str, path: Path) -> None:
        check_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid4().hex}.partial")
        digest = hashlib.sha256()
        try:
            with self._translated_errors(key), partial.open("wb") as target:
                metadata = obstore.get(self._store, key, options={"head": True})
                size = metadata.meta["size"]
                for start in range(0, size, _PART_BYTES):  # requests that end within their time, whatever the size
                    length = min(_PART_BYTES, size - start)
                    chunk = obstore.get_range(self._store, key, start=start, length=length)
                    digest.update(chunk)
                    target.write(chunk)
            expected = metadata.attributes.get(_SHA256)
            if expected is not None and digest.hexdigest() != expected:
                msg = f"{key} has the sha256 {digest.hexdigest()}, but {expected} was stored with it: restore the file"
                raise DamagedBlobError(msg)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(_RangeReader(self, key, self.get_size_bytes(key)), CHUNK_BYTES)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return a part of a blob. Raises FileNotFoundError."""
        with self._translated_errors(key):
            return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def get_size_bytes(self, key: str) -> int:
        check_key(key)
        with self._translated_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def list_keys(self, prefix: str) -> list[str]:
        check_key(prefix)
        with self._translated_errors(prefix):
            return sorted(entry["path"] for page in obstore.list(self._store, prefix) for entry in page)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._translated_errors(key):
            obstore.delete(self._store, key)

    def delete_prefix(self, prefix: str) -> None:
        keys = self.list_keys(prefix)
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            with self._translated_errors(prefix):
                obstore.delete(self._store, keys[start : start + _DELETED_AT_ONCE])

    def get_local_path(self, key: str) -> Path | None:
        return None

    def get_remote_sha256(self, key: str) -> str | None:
        check_key(key)
        with self._translated_errors(key):
            value = obstore.get(self._store, key, options={"head": True}).attributes.get(_SHA256)
        return None if value is None else str(value)

    def make_download_url(self, key: str, *, seconds: int) -> str | None:
        check_key(key)
        with self._translated_errors(key):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def make_upload_url(self, key: str, *, seconds: int) -> str | None:
        check_key(key)
        with self._translated_errors(key):
            return obstore.sign(self._store, "PUT", key, timedelta(seconds=seconds))

    def check(self) -> None:
        where = f"{self.location.endpoint or 'AWS'}, bucket {self.location.bucket!r}"
        probe = f"probe-{uuid4().hex}"
        try:
            with self._translated_errors(probe):
                next(iter(obstore.list(self._store, chunk_size=1)), None)  # a bucket that is missing fails here
                obstore.put(self._store, probe, b"probe", use_multipart=False)
                obstore.delete(self._store, probe)
        except (BlobStoreUnavailable, FileNotFoundError) as error:
            remedy = _find_remedy(str(error))
            if remedy is None:
                raise
            msg = f"{where}: {remedy}"
            raise BlobStoreConfigError(msg) from error

    @contextmanager
    def _translated_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except BaseError as error:
            text = str(error)
            if "status code: 507" in text or "StorageFull" in text or "QuotaExceeded" in text:
                msg = f"the object store is full: {key} was not stored"
                raise StorageFull(msg) from error
            code = text.split("<Code>", 1)[-1].split("</Code>", 1)[0] if "<Code>" in text else text.split("\n", 1)[0]
            msg = f"{self.location.bucket}/{key}: the object store answered {code[:300]}"
            raise BlobStoreUnavailable(msg) from error


class _RangeReader(io.RawIOBase):
    """A blob as a seekable file that reads ranges."""

    def __init__(self, blobs: S3Blobs, key: str, size: int) -> None:
        super().__init__()
        self._blobs, self._key, self._size, self._position = blobs, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._blobs.read_range(self._key, self._position, length)
        self._position += length
        return length


def _find_remedy(error: str) -> str | None:
    """Return what to do about an error that repeating cannot mend."""
    if "NoSuchBucket" in error:
        return "the bucket does not exist: create it, or correct SOUL_BLOBS_URL"
    if "InvalidAccessKeyId" in error:
        return "the access key is unknown: set AWS_ACCESS_KEY_ID"
    if "SignatureDoesNotMatch" in error:
        return "the secret key is wrong: set AWS_SECRET_ACCESS_KEY"
    if "AccessDenied" in error:
        return "the key may not list, read, write and delete in this bucket: extend its policy"
    return None

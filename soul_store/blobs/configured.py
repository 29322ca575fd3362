"""The store that SOUL_BLOBS_URL names. `python -m soul_store.blobs.configured` checks it and names the remedy."""

import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from soul_store.blobs.contract import BlobStore, BlobStoreConfigError, BlobStoreUnavailable
from soul_store.blobs.local import LocalBlobStore
from soul_store.blobs.s3 import S3Blobs
from soul_store.blobs.s3_location import S3Location
from soul_store.settings import get_settings


def get_blob_store() -> BlobStore:
    """Return the configured store of files. Raises BlobStoreConfigError."""
    settings = get_settings()
    return _make_store(settings.blobs_url, settings.blobs_allow_http)


@cache
def _make_store(url: str, allow_http: bool) -> BlobStore:
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Blobs(S3Location.parse(url, allow_http=allow_http))
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        msg = (
            f"SOUL_BLOBS_URL is {url!r}; set it to file:///absolute/folder or "
            "s3://bucket/prefix?endpoint=https://host&region=name"
        )
        raise BlobStoreConfigError(msg)
    return LocalBlobStore(Path(unquote(parts.path)))


def main() -> int:
    """Check the store. A process that forks calls this as a child: the S3 client does not survive a fork."""
    try:
        get_blob_store().check()
    except (BlobStoreConfigError, BlobStoreUnavailable) as error:
        sys.stderr.write(f"the store of files cannot be used: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

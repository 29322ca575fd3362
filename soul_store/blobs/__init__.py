"""The store of files: data sets, models and results, in a local folder or in an S3 bucket.

A key is a relative path such as `jobs/job_…/3/checkpoint/model.safetensors`.
"""

from soul_store.blobs.configured import get_blob_store
from soul_store.blobs.contract import (
    CHUNK_BYTES,
    BlobStore,
    BlobStoreConfigError,
    BlobStoreUnavailable,
    DamagedBlobError,
    StorageFull,
    StoredBlob,
)
from soul_store.blobs.local import LocalBlobStore
from soul_store.blobs.s3 import S3Blobs

__all__ = [
    "CHUNK_BYTES",
    "BlobStore",
    "BlobStoreConfigError",
    "BlobStoreUnavailable",
    "DamagedBlobError",
    "LocalBlobStore",
    "S3Blobs",
    "StorageFull",
    "StoredBlob",
    "get_blob_store",
]

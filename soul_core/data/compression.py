"""Reads a plain or compressed file within size limits, because an upload may be a decompression bomb. Torch-free."""

import io
import zlib
from pathlib import Path
from typing import Any, Protocol, cast

import zstandard

from soul_core.errors import BadData

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

MAX_EXPANDED_BYTES = 2 << 30
#: Real text shrinks 3 to 20 times; gzip can reach 1,000 and zstd 30,000. Small files are exempt: they do no harm.
MAX_COMPRESSION_RATIO = 200
_RATIO_FREE_BYTES = 16 << 20
_ZSTD_WINDOW_BYTES = 128 << 20


class _Decoder(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, /) -> bytes: ...


class DecompressedStream(io.RawIOBase):
    """The bytes of a file, decompressed while they are read.

    Raises:
        BadData: the bytes exceed a limit or end too soon.
    """

    #: Input bytes per call of the decoder: bounds what one call may return (zstd: 128 KiB for 4 bytes).
    _STEP_BYTES = 2048

    def __init__(self, path: Path, max_expanded_bytes: int) -> None:
        self._file = path.open("rb")
        magic = self._file.read(4)
        self._file.seek(0)
        self._kind = "gzip" if magic.startswith(_GZIP) else "zstd" if magic == _ZSTD else ""
        self._decoder: _Decoder | None = self._new_decoder() if self._kind else None
        self._max, self._size = max_expanded_bytes, path.stat().st_size
        self._total = 0
        self._ready = b""

    @property
    def is_uncompressed(self) -> bool:
        """Whether the file is not compressed."""
        return not self._kind

    def readable(self) -> bool:
        return True

    def peek(self, num_bytes: int) -> bytes:
        """Return the first bytes without consuming them."""
        while len(self._ready) < num_bytes and (more := self._more()):
            self._ready += more
        return self._ready[:num_bytes]

    def readinto(self, buffer: Any, /) -> int:
        if not self._ready:
            self._ready = self._more()
        taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _more(self) -> bytes:
        """Return the next bytes; b"" only at the end of the file."""
        expanded = b""
        while not expanded:
            chunk = self._file.read(self._STEP_BYTES if self._kind else 1 << 20)
            if not chunk:
                if self._decoder is not None and not self._decoder.eof:
                    raise BadData(f"the {self._kind} file is truncated; upload it again")
                break
            expanded = self._expand(chunk) if self._kind else chunk
        self._total += len(expanded)
        if self._total > self._max:
            raise BadData(f"the data set is larger than {self._max:,} bytes when expanded")
        if self._kind and self._total > max(_RATIO_FREE_BYTES, MAX_COMPRESSION_RATIO * self._size):
            raise BadData(f"the file expands more than {MAX_COMPRESSION_RATIO} times: refused as a decompression bomb")
        return expanded

    def _expand(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            decoder = cast("_Decoder", self._decoder)
            if decoder.eof:  # another member or frame follows
                decoder = self._decoder = self._new_decoder()
            try:
                parts.append(decoder.decompress(chunk))
            except (zlib.error, zstandard.ZstdError) as error:
                raise BadData(f"the {self._kind} file is damaged: {error}") from error
            chunk = decoder.unused_data if decoder.eof else b""
        return b"".join(parts)

    def _new_decoder(self) -> _Decoder:
        if self._kind == "gzip":
            return cast("_Decoder", zlib.decompressobj(wbits=31))
        return cast("_Decoder", zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj())

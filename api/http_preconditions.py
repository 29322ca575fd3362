"""If-None-Match and Range headers, as RFC 9110 defines them."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes\s*=\s*(\d*-\d*)(\s*,\s*\d*-\d*)*\s*", re.IGNORECASE)


def has_etag(if_none_match: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names this version: `*`, or a list, compared weakly."""
    if if_none_match is None:
        return False
    etags = [item.strip().removeprefix("W/") for item in if_none_match.split(",")]
    return "*" in etags or etag.removeprefix("W/") in etags


def parse_range_header(header: str | None, size_bytes: int) -> tuple[str | None, bool]:
    """Return the Range header to respect, and whether the file has such a range.

    None means the complete file: a server ignores ranges that are malformed or in another unit (RFC 9110, 14.2).
    """
    if header is None or not _RANGE.fullmatch(header):
        return None, True
    specs = [item.strip().partition("-") for item in header.partition("=")[2].split(",")]
    if any(not first and not last for first, _, last in specs):
        return None, True
    if any(first and last and int(first) > int(last) for first, _, last in specs):
        return None, True
    return header, any(int(first) < size_bytes if first else int(last) > 0 for first, _, last in specs)


@dataclass(frozen=True)
class ByteRange:
    """The bytes from `start` to before `stop`."""

    start: int
    stop: int


def parse_single_range(header: str, size_bytes: int) -> ByteRange | None:
    """Return the one range of a header that `parse_range_header` accepted; None for several, which may be ignored."""
    first, _, last = header.partition("=")[2].strip().partition("-")
    if "," in header:
        return None
    if not first:
        return ByteRange(max(0, size_bytes - int(last)), size_bytes)
    return ByteRange(int(first), min(int(last) + 1, size_bytes) if last else size_bytes)

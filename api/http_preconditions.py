"""Requests that depend on what one has: If-None-Match and Range, as RFC 9110 reads them."""

import re

_RANGE = re.compile(r"bytes\s*=\s*(\d*-\d*)(\s*,\s*\d*-\d*)*\s*", re.IGNORECASE)


def has_etag(if_none_match: str | None, etag: str) -> bool:
    """Say whether an If-None-Match header names this version: `*`, or a list, compared weakly."""
    if if_none_match is None:
        return False
    known = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in known or etag.removeprefix("W/") in known


def parse_range_header(header: str | None, size_bytes: int) -> tuple[str | None, bool]:
    """Return (the Range to obey, whether it can be satisfied).

    None is the whole file: RFC 9110, 14.2 has a server pass over ranges that are malformed or of another unit.
    """
    if header is None or not _RANGE.fullmatch(header):
        return None, True
    specs = [each.strip().partition("-") for each in header.partition("=")[2].split(",")]
    if any(not first and not last for first, _, last in specs):
        return None, True
    if any(first and last and int(first) > int(last) for first, _, last in specs):
        return None, True
    return header, any(int(first) < size_bytes if first else int(last) > 0 for first, _, last in specs)

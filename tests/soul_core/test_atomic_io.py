"""Files written completely or not at all, and their digests."""

import hashlib
from pathlib import Path

import pytest

from soul_core import atomic_io
from soul_core.atomic_io import compute_sha256, write_atomically


def test_a_file_larger_than_one_buffer_is_hashed_completely(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert compute_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail(_: int) -> None:
        raise OSError("the device failed")

    monkeypatch.setattr(atomic_io.os, "fsync", fail)
    with pytest.raises(OSError, match="the device failed"):
        write_atomically(path, "new")

    assert path.read_text() == "old"

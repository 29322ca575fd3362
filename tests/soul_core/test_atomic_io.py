import hashlib
from pathlib import Path

from soul_core.atomic_io import compute_sha256


def test_the_sha256_covers_the_complete_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert compute_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()

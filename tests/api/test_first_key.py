"""The first admin key is printed once, or written to a private file instead."""

from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api import first_key
from soul_store.tables import ApiKey


def test_the_key_goes_to_a_private_file_and_not_to_the_log(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-key"

    assert first_key.main(["--out", str(path)]) == 0

    key = path.read_text().strip()
    assert key.startswith("soul_")
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in capsys.readouterr().out


def test_a_second_start_leaves_the_file_as_it_is(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    first_key.main(["--out", str(path)])
    before = path.read_text()

    assert first_key.main(["--out", str(path)]) == 0

    assert path.read_text() == before


def test_a_key_that_cannot_be_written_is_not_created(session: Session, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        first_key.main(["--out", str(tmp_path / "no such folder" / "api-key")])

    assert session.scalar(select(func.count()).select_from(ApiKey)) == 0

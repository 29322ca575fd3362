"""Settings come from variables or from files of secrets, and passwords of any characters fit into the URL."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from soul_store.settings import Settings

PASSWORD = "a@b/c:d%2F?#ü"


@pytest.fixture
def password_file(tmp_path: Path, settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("SOUL_DATABASE_URL", "postgresql+psycopg://soul@db:5433/soul")
    monkeypatch.setenv("SOUL_DATABASE_PASSWORD_FILE", str(path))
    return path


def test_a_password_of_any_characters_reaches_the_database_unchanged(password_file: Path) -> None:
    url = make_url(Settings().database_url)

    assert (url.username, url.password, url.host, url.port, url.database) == ("soul", PASSWORD, "db", 5433, "soul")


def test_a_password_in_the_url_wins_over_the_setting(password_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_DATABASE_URL", "postgresql+psycopg://soul:own@db/soul")

    assert make_url(Settings().database_url).password == "own"


def test_a_variable_wins_over_its_file(password_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_DATABASE_PASSWORD", "direct")

    assert make_url(Settings().database_url).password == "direct"


def test_a_password_is_not_shown_where_settings_are_printed(password_file: Path) -> None:
    assert PASSWORD not in repr(Settings().database_password)


def test_a_missing_file_of_a_secret_names_the_variable(password_file: Path) -> None:
    password_file.unlink()

    with pytest.raises(ValueError, match=r"SOUL_DATABASE_PASSWORD_FILE=\S+ cannot be read"):
        Settings()

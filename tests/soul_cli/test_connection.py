"""The server and the key are found in options, the environment, or the local connection file."""

import json
from pathlib import Path

import pytest

from soul_cli.connection import Connection, find_connection
from soul_cli.errors import BadInput, CliExitCode


@pytest.fixture
def local(tmp_path: Path) -> Path:
    (tmp_path / "connection.json").write_text(json.dumps({"url": "http://127.0.0.1:1234", "api_key": "soul_local"}))
    return tmp_path


def test_options_win_over_the_environment_and_the_local_server(local: Path) -> None:
    env = {"SOUL_DATA": str(local), "SOUL_URL": "http://env", "SOUL_API_KEY": "soul_env"}
    assert find_connection(url="http://option", key="soul_option", env=env) == Connection(
        "http://option", "soul_option"
    )
    assert find_connection(env=env) == Connection("http://env", "soul_env")


def test_the_local_server_is_found_without_any_option(local: Path) -> None:
    assert find_connection(env={"SOUL_DATA": str(local)}) == Connection("http://127.0.0.1:1234", "soul_local")


def test_the_local_key_is_never_sent_to_another_server(local: Path) -> None:
    env = {"SOUL_DATA": str(local)}
    assert find_connection(url="https://elsewhere.example", env=env).key is None
    assert find_connection(url="http://127.0.0.1:1234/", env=env).key == "soul_local"


def test_without_any_server_the_error_names_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"soul serve.*--url") as caught:
        find_connection(env={"SOUL_DATA": str(tmp_path)})
    assert caught.value.exit_code == CliExitCode.BAD_INPUT


@pytest.mark.parametrize("text", ["", "[]", '{"api_key": "k"}', "not json"])
def test_a_broken_connection_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text(text)
    with pytest.raises(BadInput, match=r"connection\.json"):
        find_connection(env={"SOUL_DATA": str(tmp_path)})


def test_a_url_without_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="http://"):
        find_connection(url="localhost:8000", env={"SOUL_DATA": str(tmp_path)})

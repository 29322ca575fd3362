"""One request or task is one transaction, which `soul_store.database` alone commits."""

import ast

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from soul_store import database
from soul_store.settings import Settings, get_settings
from soul_store.tables import Tenant
from tests.paths import ROOT

FOLDERS = ("api", "soul_store", "worker", "soul_cli")


def test_no_other_module_commits() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "commit"
    ]

    assert [call for call in calls if not call.startswith("soul_store/database.py")] == []


def test_a_transaction_is_committed_at_its_end(settings_env: Settings) -> None:
    with database.transaction() as session:
        session.add(Tenant(id="prj_1", name="p"))

    with database.transaction() as session:
        assert session.scalars(select(Tenant.name)).all() == ["p"]


def test_a_transaction_that_raises_leaves_no_row(settings_env: Settings) -> None:
    def insert_twice() -> None:
        with database.transaction() as session:
            session.add(Tenant(id="prj_1", name="p"))
            session.flush()
            session.add(Tenant(id="prj_2", name="p"))

    with pytest.raises(IntegrityError):
        insert_twice()

    with database.transaction() as session:
        assert session.scalars(select(Tenant.name)).all() == []


def test_availability_needs_a_server_and_the_tables(settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database.is_available()

    monkeypatch.setenv("SOUL_DATABASE_URL", "postgresql+psycopg://user@/soul?host=/nowhere")
    get_settings.cache_clear()

    assert not database.is_available()

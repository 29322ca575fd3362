"""Migrations make exactly the tables the code declares."""

from migrations.run import check, upgrade


def test_the_migrated_schema_is_what_the_tables_declare(database_url: str) -> None:
    check(database_url)


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)

    check(database_url)

"""Migrations make exactly the tables the code declares."""

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from migrations.run import check, make_config, upgrade
from tests.servers import Servers


@pytest.fixture
def own_database(servers: Servers) -> Iterator[str]:
    """A database nobody else uses."""
    owner = create_engine(servers.postgres.make_url(), isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.execute(text("CREATE DATABASE migrated"))
    yield servers.postgres.make_url("migrated")
    with owner.connect() as connection:
        connection.execute(text("DROP DATABASE migrated WITH (FORCE)"))
    owner.dispose()


def test_the_migrated_schema_is_what_the_tables_declare(database_url: str) -> None:
    check(database_url)


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)

    check(database_url)


def test_every_migration_can_be_taken_back(own_database: str) -> None:
    upgrade(own_database)
    command.downgrade(make_config(own_database), "base")
    upgrade(own_database)

    check(own_database)


def test_jobs_of_before_there_were_kinds_unlearn(own_database: str) -> None:
    command.upgrade(make_config(own_database), "0001")
    engine = create_engine(own_database)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants (id, name) VALUES ('prj_1', 'p')"))
        key = "INSERT INTO api_keys (id, tenant_id, name, prefix, secret_sha256, scopes)"
        connection.execute(text(f"{key} VALUES ('key_1', 'prj_1', 'k', 'p', 's', '{{}}')"))
        model = "INSERT INTO models (id, tenant_id, name, source, location)"
        connection.execute(text(f"{model} VALUES ('mdl_1', 'prj_1', 'm', 'local', '/m')"))
        job = "INSERT INTO jobs (id, tenant_id, name, created_by, model_id, datasets, spec, spec_sha256, status)"
        connection.execute(
            text(f"{job} VALUES ('job_1', 'prj_1', 'j', 'key_1', 'mdl_1', '{{}}', '{{}}', '0', 'queued')")
        )

    upgrade(own_database)

    with engine.begin() as connection:
        row = connection.execute(text("SELECT kind, models, depends_on_job_id FROM jobs")).one()
    engine.dispose()
    assert tuple(row) == ("unlearn", {}, None)

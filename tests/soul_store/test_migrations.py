"""Migrations make exactly the tables that the code declares, and carry the rows over."""

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, create_engine, text

from migrations.run import check, make_config, upgrade
from soul_store.tables import Base
from tests.servers import Servers

#: Name -> definition of every constraint and every index of the service's tables.
_CONSTRAINTS = """
SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
"""
_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""


@pytest.fixture
def new_database(servers: Servers) -> Iterator[str]:
    """An empty database that no other test uses."""
    owner = create_engine(servers.postgres.make_url(), isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.execute(text("CREATE DATABASE migrated"))
    yield servers.postgres.make_url("migrated")
    with owner.connect() as connection:
        connection.execute(text("DROP DATABASE migrated WITH (FORCE)"))
    owner.dispose()


@pytest.fixture
def new_engine(new_database: str) -> Iterator[Engine]:
    engine = create_engine(new_database)
    yield engine
    engine.dispose()


def read_definitions(connection: Connection, query: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(text(query))}


def insert_owner(connection: Connection) -> None:
    """Insert a tenant with a key and a model, as migration 0001 has their tables."""
    connection.execute(text("INSERT INTO tenants (id, name) VALUES ('prj_1', 'p')"))
    key = "INSERT INTO api_keys (id, tenant_id, name, prefix, secret_sha256, scopes)"
    connection.execute(text(f"{key} VALUES ('key_1', 'prj_1', 'k', 'p', 's', '{{}}')"))
    model = "INSERT INTO models (id, tenant_id, name, source, location)"
    connection.execute(text(f"{model} VALUES ('mdl_1', 'prj_1', 'm', 'local', '/m')"))


def insert_job(connection: Connection, job_id: str, status: str, **values: str) -> None:
    """Insert a job, with SQL expressions for further columns."""
    columns = {
        "id": f"'{job_id}'",
        "tenant_id": "'prj_1'",
        "name": "'j'",
        "created_by": "'key_1'",
        "model_id": "'mdl_1'",
        "datasets": "'{}'",
        "spec": "'{}'",
        "spec_sha256": "'0'",
        "status": f"'{status}'",
        **values,
    }
    connection.execute(text(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"))


def test_the_migrated_schema_is_what_the_tables_declare(database_url: str) -> None:
    check(database_url)


@pytest.mark.parametrize("query", [_CONSTRAINTS, _INDEXES], ids=["constraints", "indexes"])
def test_migrations_make_the_declared_constraints_and_indexes(database: Engine, new_engine: Engine, query: str) -> None:
    """`check` compares neither CHECK constraints nor the conditions of partial indexes."""
    Base.metadata.create_all(new_engine)

    with database.connect() as migrated, new_engine.connect() as declared:
        assert read_definitions(migrated, query) == read_definitions(declared, query)


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)

    check(database_url)


def test_every_migration_can_be_reverted(new_database: str) -> None:
    upgrade(new_database)
    command.downgrade(make_config(new_database), "base")
    upgrade(new_database)

    check(new_database)


def test_0002_gives_existing_jobs_the_kind_unlearn(new_database: str, new_engine: Engine) -> None:
    command.upgrade(make_config(new_database), "0001")
    with new_engine.begin() as connection:
        insert_owner(connection)
        insert_job(connection, "job_1", "succeeded", finished_at="now()")

    upgrade(new_database)

    with new_engine.begin() as connection:
        row = connection.execute(text("SELECT kind, models, depends_on_job_id FROM jobs")).one()
    assert tuple(row) == ("unlearn", {}, None)


def test_0004_ends_unfinished_jobs_with_the_reason(new_database: str, new_engine: Engine) -> None:
    command.upgrade(make_config(new_database), "0001")
    with new_engine.begin() as connection:
        insert_owner(connection)
        insert_job(connection, "job_queued", "queued")
        running = {"lease_until": "now()", "worker": "'w'", "phase": "'reference'", "progress": """'{"step": 1}'"""}
        insert_job(connection, "job_running", "running", wish="'cancel'", **running)

    upgrade(new_database)

    with new_engine.begin() as connection:
        rows = connection.execute(text("SELECT * FROM jobs ORDER BY id")).mappings().all()
    assert [row["id"] for row in rows] == ["job_queued", "job_running"]
    for row in rows:
        assert (row["status"], row["version"], row["lease_until"], row["worker"]) == ("failed", 2, None, None)
        assert (row["phase"], row["progress"], row["requested_action"]) == (None, {}, None)
        assert row["finished_at"] is not None
        assert row["status_reason"] == {
            "code": "upgraded",
            "retryable": True,
            "details": [],
            "message": "this job was submitted to an earlier version of SOUL, whose specs had other field names; "
            "submit it again",
        }


def test_0004_keeps_finished_jobs(new_database: str, new_engine: Engine) -> None:
    command.upgrade(make_config(new_database), "0003")
    with new_engine.begin() as connection:
        connection.execute(text("ALTER TABLE tenants ALTER COLUMN row_key SET DEFAULT 'key'"))
        insert_owner(connection)
        insert_job(connection, "job_failed", "failed", finished_at="now()", status_reason="""'{"code": "diverged"}'""")
        insert_job(
            connection, "job_ok", "succeeded", finished_at="now()", verdict="'passed'", after_job_id="'job_failed'"
        )

    upgrade(new_database)

    with new_engine.begin() as connection:
        columns = "status, version, verdict, status_reason, depends_on_job_id"
        rows = [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM jobs ORDER BY id"))]
    assert rows == [
        ("failed", 1, None, {"code": "diverged"}, None),
        ("succeeded", 1, "passed", None, "job_failed"),
    ]

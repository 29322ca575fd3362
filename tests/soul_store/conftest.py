"""A tenant with a model and a data set row, and a job made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from soul_store import datasets, jobs, keys, models
from soul_store.jobs import Scheduling
from soul_store.tables import Job


@dataclass
class Owner:
    tenant_id: str
    key_id: str
    model_id: str
    dataset_id: str


def make_owner(session: Session, name: str) -> Owner:
    tenant = keys.get_or_insert_tenant(session, name)
    key = keys.insert(
        session,
        tenant_id=tenant.id,
        name=name,
        prefix=name[:8],
        secret_sha256="0" * 64,
        scopes=["*"],
        expires_at=None,
        actor="system",
    )
    model = models.insert(session, tenant_id=tenant.id, actor=key.id, name="m", source="local", location="/m")
    dataset = datasets.insert(
        session, tenant_id=tenant.id, actor=key.id, name="f", file_format="jsonl", mapping={}, status="ready"
    )
    session.commit()
    return Owner(tenant.id, key.id, model.id, dataset.id)


@pytest.fixture
def owner(session: Session) -> Owner:
    return make_owner(session, "owner")


def insert_job(session: Session, owner: Owner, scheduling: Scheduling, **values: Any) -> Job:
    job = jobs.insert(
        session,
        tenant_id=owner.tenant_id,
        created_by=owner.key_id,
        name="j",
        model_id=owner.model_id,
        datasets={"forget": owner.dataset_id},
        spec={},
        spec_sha256="0",
        scheduling=scheduling,
        **values,
    )
    session.commit()
    return job


@pytest.fixture
def new_job(session: Session, owner: Owner) -> Callable[..., Job]:
    """Make a job; keyword arguments are those of its scheduling."""
    return lambda **scheduling: insert_job(session, owner, Scheduling(**scheduling))

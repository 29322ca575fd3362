"""The tables. Each row of a tenant has its tenant_id. Times are timestamptz on the database's clock."""

from soul_store.tables.base import Base
from soul_store.tables.identity import ApiKey, AuditEntry, IdempotencyKey, Tenant
from soul_store.tables.inputs import Dataset, Model
from soul_store.tables.jobs import HAS_BEGUN, HAS_NOT_FINISHED, Artifact, Job, JobEvent, JobLogLine, JobMetric
from soul_store.tables.operation import JobCost, OutboxEntry, Worker

__all__ = [
    "HAS_BEGUN",
    "HAS_NOT_FINISHED",
    "ApiKey",
    "Artifact",
    "AuditEntry",
    "Base",
    "Dataset",
    "IdempotencyKey",
    "Job",
    "JobCost",
    "JobEvent",
    "JobLogLine",
    "JobMetric",
    "Model",
    "OutboxEntry",
    "Tenant",
    "Worker",
]

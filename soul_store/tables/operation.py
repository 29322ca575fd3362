"""Messages to the broker, workers, and what finished jobs cost."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Float, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from soul_store.tables.base import Base


class OutboxEntry(Base):
    """A message that must reach the broker: written with the row it refers to, published after commit."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    task: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    """A worker process and the device that does its jobs. Its running job is in `jobs.worker`."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)  # host:process id
    accelerator: Mapped[str]  # cpu | cuda
    machine: Mapped[str | None]  # what does its jobs: the name of the GPU, or of the CPU with its cores
    device_id: Mapped[str | None]  # UUID of the GPU
    memory_bytes: Mapped[int | None]  # of the device
    ram_bytes: Mapped[int | None]  # of the machine or the container
    load: Mapped[float | None] = mapped_column(Float)  # processes that want to run, per core, in the last minute
    versions: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # package -> version
    is_draining: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (CheckConstraint("accelerator IN ('cpu','cuda')", name="accelerator"),)


class JobCost(Base):
    """What a finished job cost, on which kind of worker. Refers to no job, tenant or model: it outlives all of them."""

    __tablename__ = "job_costs"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    cost_model_version: Mapped[int]
    accelerator: Mapped[str]  # cpu | cuda
    machine: Mapped[str]  # as in workers
    dtype: Mapped[str]  # of the spec: auto | float32 | bfloat16
    num_parameters: Mapped[int]
    steps: Mapped[int]
    train_tokens: Mapped[int]
    flops: Mapped[float]  # of the training, as the report states them
    num_attacks: Mapped[int]
    work: Mapped[dict[str, Any]]  # phase -> work, as the cost model counted it
    seconds: Mapped[dict[str, Any]]  # phase -> seconds, only of phases that one attempt ran alone
    planned_memory_bytes: Mapped[int]  # by the cost model
    peak_memory_bytes: Mapped[int | None]  # absent: the job was resumed
    __table_args__ = (
        CheckConstraint("accelerator IN ('cpu','cuda')", name="accelerator"),
        Index("ix_job_costs_machine_dtype", "cost_model_version", "accelerator", "machine", "dtype", "id"),
        Index("ix_job_costs_recent", "cost_model_version", "id"),
    )

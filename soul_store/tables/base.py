"""Base of all tables: naming of constraints, column types."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, MetaData
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import Text

from soul_core.report import Verdict
from soul_core.spec import JobKind
from soul_store.column_types import EnumText
from soul_store.job_priority import JobPriority
from soul_store.job_status import JobStatus


class Base(DeclarativeBase):
    """Base of all tables. Constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it off the class)
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        str: Text,
        int: BigInteger,
        JobKind: EnumText(JobKind),
        JobPriority: EnumText(JobPriority),
        JobStatus: EnumText(JobStatus),
        Verdict: EnumText(Verdict),
    }

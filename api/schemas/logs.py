"""A line of a job's log over HTTP."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class LogLineOut(BaseModel):
    """A line of a job's log. Further members depend on the message."""

    model_config = ConfigDict(extra="allow")

    seq: int = Field(description="Increases within the job. Give the last one as `after` for the next page.")
    attempt: int = Field(description="Attempt of the job that wrote it, counted from 1.")
    at: datetime
    level: str = Field(description="debug, info, warning, error or critical.")
    message: str
    source: str = Field(
        "service", description="worker, engine, stderr (of the engine), the name of a library's logger, or service."
    )

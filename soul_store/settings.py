"""The environment variables that the service reads. `soul serve` sets them for one machine."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _to_lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class LogSettings(BaseSettings):
    """The settings of a process's log. They have defaults, so a process can log before it knows its servers."""

    model_config = SettingsConfigDict(env_prefix="SOUL_", frozen=True)

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_to_lower)] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_to_lower)] = Field(
        "console", description="console (aligned text) or json (one object per line)."
    )


class Settings(LogSettings):
    """Settings from `SOUL_*`. The descriptions are the settings table of the README; a test compares both."""

    model_config = SettingsConfigDict(env_prefix="SOUL_", frozen=True)

    database_url: str = Field(description="PostgreSQL, as postgresql+psycopg://user@host/name.")
    redis_url: str = Field(description="Broker, as redis://host:6379/0 or redis+socket:///path?virtual_host=0.")
    blobs_url: str = Field(description="Store of files, as file:///absolute/folder.")
    scratch_dir: Path = Field(Path("/tmp/soul-scratch"), description="Workers' folder for runs in progress.")  # noqa: S108
    model_roots: str = Field(
        "", description="Folders that may contain 'local' and 'gguf' models, separated by ':'; empty: none."
    )
    max_upload_bytes: int = Field(2 << 30, gt=0, description="Largest upload.")
    max_expanded_bytes: int = Field(8 << 30, gt=0, description="Largest upload after decompression.")
    upload_memory_bytes: int = Field(
        4 << 30,
        ge=1 << 28,
        description="Memory of the process that reads an upload of more than 1 MiB, or a binary one.",
    )
    upload_seconds: float = Field(300, gt=0, description="Longest time that reading an upload may take.")
    api_concurrency: int = Field(
        16, ge=1, le=200, description="Requests that an API process serves at once, each with a database connection."
    )
    api_max_waiting: int = Field(
        2000, ge=0, description="Requests that may wait for one of these places; further ones are answered 503 at once."
    )
    api_wait_seconds: float = Field(
        20, gt=0, description="Longest wait for a place, after which the request is answered 503."
    )
    max_concurrent_uploads: int = Field(4, ge=1, description="Uploads that an API process reads and checks at once.")
    queue_view_seconds: float = Field(
        1, ge=0, description="Age up to which an API process shows the same queue positions again."
    )
    lease_seconds: float = Field(
        15, gt=0, description="A running job whose worker does not respond for this long is requeued."
    )
    max_attempts: int = Field(
        3, ge=1, description="Attempts of a job that may fail by infrastructure before the job fails."
    )
    priority_aging_seconds: float = Field(
        3600, gt=0, description="A queued job rises by one level of priority each time it has waited this long."
    )
    worker_expiry_seconds: float = Field(
        3600, gt=0, description="A worker that has not reported for this long leaves the list of workers."
    )
    grace_seconds: float = Field(20, gt=0, description="Time that the engine has to checkpoint before it is killed.")
    job_log_max_lines: int = Field(2000, ge=2, description="Lines kept of an attempt's log: its first and last halves.")
    job_log_max_bytes: int = Field(1 << 20, ge=2, description="Bytes kept of an attempt's log.")


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once. Tests call `get_settings.cache_clear()`."""
    return Settings()

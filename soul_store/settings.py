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
    blobs_url: str = Field(
        description="Store of files, as file:///absolute/folder or s3://bucket/prefix?endpoint=https://host&region=name."
    )
    blobs_allow_http: bool = Field(False, description="Allow an S3 endpoint that is neither https nor on this machine.")
    blobs_download: Literal["redirect", "proxy"] = Field(
        "redirect",
        description="Downloads from S3: redirect to a URL of the bucket, or proxy if clients cannot reach the bucket.",
    )
    download_url_seconds: int = Field(
        300, ge=1, le=604800, description="How long a download may start by a URL of the bucket."
    )
    checkpoints: Literal["scratch", "store"] = Field(
        "scratch",
        description="Checkpoints of running jobs: only in scratch, or also in the store, so that any machine resumes.",
    )
    model_cache_bytes: int = Field(
        64 << 30, ge=0, description="Bytes of models from S3 that a worker keeps in its scratch folder."
    )
    scratch_dir: Path = Field(Path("/tmp/soul-scratch"), description="Workers' folder for runs in progress.")  # noqa: S108
    model_roots: str = Field(
        "", description="Folders that may contain 'local' and 'gguf' models, separated by ':'; empty: none."
    )
    max_upload_bytes: int = Field(2 << 30, gt=0, description="Largest upload.")
    max_expanded_bytes: int = Field(8 << 30, gt=0, description="Largest upload after decompression.")
    lease_seconds: float = Field(
        15, gt=0, description="A running job whose worker does not respond for this long is requeued."
    )
    max_attempts: int = Field(
        3, ge=1, description="Attempts of a job that may fail by infrastructure before the job fails."
    )
    grace_seconds: float = Field(20, gt=0, description="Time that the engine has to checkpoint before it is killed.")
    job_log_max_lines: int = Field(2000, ge=2, description="Lines kept of an attempt's log: its first and last halves.")
    job_log_max_bytes: int = Field(1 << 20, ge=2, description="Bytes kept of an attempt's log.")


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once. Tests call `get_settings.cache_clear()`."""
    return Settings()

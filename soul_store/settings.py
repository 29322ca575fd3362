"""The environment variables that the service reads. `soul serve` sets them for one machine."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url

PREFIX = "SOUL_"
#: `SOUL_<NAME>_FILE` names a file that contains the value: how containers receive secrets.
FILE_SUFFIX = "_FILE"


def _to_lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class SecretFileSource(PydanticBaseSettingsSource):
    """Reads the values of settings from the files that `SOUL_<NAME>_FILE` names. The variable itself wins."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{PREFIX}{field_name.upper()}{FILE_SUFFIX}"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise ValueError(f"{variable}={path} cannot be read ({error.strerror}): name a readable file") from error

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class _ServiceSettings(BaseSettings):
    """What all settings have in common: the prefix, and files in place of values."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    @classmethod
    def settings_customise_sources(  # lint: quote (the name is pydantic's)
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretFileSource(settings_cls)


class ProcessSettings(_ServiceSettings):
    """The log and the metrics of a process. They have defaults, so a process can log before it knows its servers."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_to_lower)] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_to_lower)] = Field(
        "console", description="console (aligned text) or json (one object per line)."
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65533,
        description="Port of the process's Prometheus metrics; 0: none. `soul serve` adds 1 for the maintenance "
        "process and 2 for the worker.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics. They need no API key: keep it private.")


class Settings(ProcessSettings):
    """Settings from `SOUL_*`. `docs/configuration.md` is generated from the descriptions."""

    database_url: str = Field(description="PostgreSQL, as postgresql+psycopg://user@host/name.")
    database_password: SecretStr = Field(
        SecretStr(""),
        description="Password of the database's user, of any characters, where the URL has none.",
    )
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

    @model_validator(mode="after")
    def _insert_password(self) -> Self:
        """Add the password to the database's URL, escaped: as text it would break at `@` or `/`."""
        password = self.database_password.get_secret_value()
        if password:
            url = make_url(self.database_url)
            if url.password is None:
                complete = url.set(password=password).render_as_string(hide_password=False)
                self.__dict__["database_url"] = complete  # the model is frozen for everyone else
        return self


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once. Tests call `get_settings.cache_clear()`."""
    return Settings()

"""The bodies of API keys."""

from datetime import datetime

from pydantic import ConfigDict, Field

from api.schemas.common import Name, ResponseModel
from soul_core.spec.terms import SpecModel


class KeyCreate(SpecModel):
    """A new API key. Its scopes are at most those of the key that creates it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "scopes": ["jobs:read", "jobs:write"]}]})

    name: Name
    scopes: list[str] = Field(min_length=1, examples=[["jobs:read", "jobs:write", "datasets:write"]])
    expires_at: datetime | None = None


class KeyOut(ResponseModel):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyOut(KeyOut):
    """A new key: the only response that contains its text."""

    key: str


class MeOut(ResponseModel):
    """The project and the scopes of the API key that sends the request."""

    tenant_id: str
    key_id: str
    scopes: list[str]

"""The calling API key, and the keys of a project."""

from fastapi import APIRouter

from api.deps import CallerDep, Cursor, KeysAdmin, Limit, SessionDep
from api.schemas.common import Page
from api.schemas.keys import KeyCreate, KeyOut, MeOut, NewKeyOut
from api.services import keys as service

router = APIRouter(prefix="/v1", tags=["account"])


@router.get("/me", operation_id="me")
def get_me(caller: CallerDep) -> MeOut:
    """Return the project and the scopes of the API key."""
    return MeOut(tenant_id=caller.tenant_id, key_id=caller.key_id, scopes=sorted(caller.scopes))


@router.post("/api-keys", status_code=201, operation_id="create_api_key")
def create_api_key(body: KeyCreate, caller: KeysAdmin, session: SessionDep) -> NewKeyOut:
    """Create a key. Only this response contains its text."""
    key, text = service.create(session, caller, name=body.name, scopes=body.scopes, expires_at=body.expires_at)
    return NewKeyOut(**KeyOut.model_validate(key).model_dump(), key=text)


@router.get("/api-keys", operation_id="list_api_keys")
def list_api_keys(caller: KeysAdmin, session: SessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[KeyOut]:
    """List the keys of the project, newest first."""
    rows = service.list_page(session, caller, limit=limit + 1, before=cursor)
    return Page.of(rows, limit, KeyOut.model_validate)


@router.delete("/api-keys/{key_id}", operation_id="revoke_api_key")
def revoke_api_key(key_id: str, caller: KeysAdmin, session: SessionDep) -> KeyOut:
    """Revoke a key, immediately and permanently."""
    return KeyOut.model_validate(service.revoke(session, caller, key_id))

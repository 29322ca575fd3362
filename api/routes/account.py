"""Who calls, and the keys of a project."""

from fastapi import APIRouter

from api.deps import CallerDep, Cursor, KeysAdmin, Limit, SessionDep
from api.schemas.jobs import KeyCreate, KeyOut, MeOut, NewKeyOut, Page
from api.services import keys as service
from soul_store import keys

router = APIRouter(prefix="/v1", tags=["account"])


@router.get("/me", operation_id="me")
def get_me(caller: CallerDep) -> MeOut:
    """Say who the API key is."""
    return MeOut(tenant_id=caller.tenant_id, key_id=caller.key_id, scopes=sorted(caller.scopes))


@router.post("/api-keys", status_code=201, operation_id="create_api_key")
def create_api_key(body: KeyCreate, caller: KeysAdmin, session: SessionDep) -> NewKeyOut:
    """Make a key. Its text is in this answer and nowhere else."""
    key, text = service.create(session, caller, name=body.name, scopes=body.scopes, expires_at=body.expires_at)
    return NewKeyOut(**KeyOut.model_validate(key).model_dump(), key=text)


@router.get("/api-keys", operation_id="list_api_keys")
def list_api_keys(caller: KeysAdmin, session: SessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[KeyOut]:
    """List the project's keys."""
    rows = keys.list_page(session, caller.tenant_id, limit=limit + 1, before=cursor)
    shown = [KeyOut.model_validate(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(data=shown, has_more=more, next_cursor=shown[-1].id if more else None)


@router.delete("/api-keys/{key_id}", operation_id="revoke_api_key")
def revoke_api_key(key_id: str, caller: KeysAdmin, session: SessionDep) -> KeyOut:
    """Revoke a key, at once and for good."""
    return KeyOut.model_validate(service.revoke(session, caller, key_id))

"""The dependencies of the endpoints: a session that commits before the answer, the caller, a job of the caller."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from api.auth import Caller, authenticate
from api.capacity import Places
from api.job_feed import JobFeed
from api.services import jobs
from soul_store.database import Session, close, open_session
from soul_store.tables import Job

#: Only for the OpenAPI text; `authenticate` reads the header itself and answers with a problem document.
bearer = HTTPBearer(auto_error=False, description="An API key: soul_...", scheme_name="ApiKey")


# Dependencies without I/O are async: FastAPI runs the others in threads.
async def get_places(request: Request) -> Places:
    """Return the places of this process."""
    return cast("Places", request.app.state.places)


async def get_upload_places(request: Request) -> Places:
    """Return the places for uploads, which take long: they take none of the other requests'."""
    return cast("Places", request.app.state.upload_places)


async def get_job_feed(request: Request) -> JobFeed:
    """Return what wakes the streams of this process."""
    return cast("JobFeed", request.app.state.job_feed)


PlacesDep = Annotated[Places, Depends(get_places)]
UploadPlacesDep = Annotated[Places, Depends(get_upload_places)]
JobFeedDep = Annotated[JobFeed, Depends(get_job_feed)]


async def get_session(places: PlacesDep) -> AsyncIterator[Session]:
    """Yield the request's session: one transaction, with a place among the requests that are served at once."""
    async with places.hold():
        session = open_session()
        try:
            yield session
        except BaseException:
            await places.run_in_thread(close, session, commit=False)
            raise
        await places.run_in_thread(close, session, commit=True)


# The scope matters: without it the commit comes after the answer, and a failed commit still answers 200.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def get_caller(request: Request, session: SessionDep, _: Annotated[object, Depends(bearer)]) -> Caller:
    """Return the caller of the request."""
    return authenticate(session, request.headers.get("authorization"))


CallerDep = Annotated[Caller, Depends(get_caller)]


def require_scope(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    """Return a dependency that passes only callers with `scope`."""

    async def check(caller: CallerDep) -> Caller:
        caller.require(scope)
        return caller

    return check


JobsReader = Annotated[Caller, Depends(require_scope("jobs:read"))]
JobsWriter = Annotated[Caller, Depends(require_scope("jobs:write"))]
DatasetsReader = Annotated[Caller, Depends(require_scope("datasets:read"))]
DatasetsWriter = Annotated[Caller, Depends(require_scope("datasets:write"))]
ModelsReader = Annotated[Caller, Depends(require_scope("models:read"))]
ModelsWriter = Annotated[Caller, Depends(require_scope("models:write"))]
KeysAdmin = Annotated[Caller, Depends(require_scope("keys:admin"))]


def _get_owned_job(session: SessionDep, caller: JobsReader, job_id: Annotated[str, Path(examples=["job_01k9"])]) -> Job:
    return jobs.get_owned(session, caller, job_id)


OwnedJob = Annotated[Job, Depends(_get_owned_job)]
Limit = Annotated[int, Query(ge=1, le=100, description="Maximum number of items on the page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the previous page.")]

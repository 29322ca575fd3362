"""The Python client of a real server, on a real port, with real workers behind it."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from api.services.keys import ensure_admin_key
from soul_cli.client import SoulClient
from soul_store.settings import Settings
from tests.live import live_api
from tests.worker.conftest import fleet

__all__ = ["fleet"]


@pytest.fixture
def client(settings_env: Settings, session: Session) -> Iterator[SoulClient]:
    key = ensure_admin_key(session)
    session.commit()
    with live_api() as port, SoulClient(f"http://127.0.0.1:{port}", key) as connected:
        yield connected

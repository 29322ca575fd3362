"""Ids of what changed, sent by PostgreSQL: triggers notify of a changed job or key when its transaction commits."""

from collections.abc import AsyncIterator

import psycopg
from sqlalchemy import make_url

from soul_store.settings import get_settings

#: The channel that the triggers of the migrations notify.
CHANNEL = "soul_changes"
_KEEPALIVE = {"connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}


async def listen() -> AsyncIterator[str]:
    """Yield "" once the connection listens, then the id of every job and key that changes.

    Raises:
        psycopg.Error: The connection was lost, or could not be made.
    """
    url = make_url(get_settings().database_url).set(drivername="postgresql")
    url = url.update_query_dict(_KEEPALIVE)
    connection = await psycopg.AsyncConnection.connect(url.render_as_string(hide_password=False), autocommit=True)
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        yield ""
        async for notification in connection.notifies():
            yield notification.payload

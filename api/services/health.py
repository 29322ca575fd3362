"""Whether the servers that the API needs answer."""

from redis.exceptions import RedisError

from soul_store.database import is_available
from soul_store.outbox import make_broker_client


def find_unavailable_servers() -> list[str]:
    """Return which of database and broker do not answer."""
    unavailable = [] if is_available() else ["database"]
    try:
        with make_broker_client() as client:
            client.ping()
    except (RedisError, OSError):
        unavailable.append("broker")
    return unavailable

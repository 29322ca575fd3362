"""Whether the servers that the API needs answer, and whether workers run."""

from redis.exceptions import RedisError

from soul_store import workers
from soul_store.database import is_available, transaction
from soul_store.outbox import make_broker_client
from soul_store.placement import JobNeeds


def find_unavailable_servers() -> list[str]:
    """Return which of database and broker do not answer."""
    unavailable = [] if is_available() else ["database"]
    try:
        with make_broker_client() as client:
            client.ping()
    except (RedisError, OSError):
        unavailable.append("broker")
    return unavailable


def find_fleet_warnings() -> list[str]:
    """Return that no worker runs, if that is so: the API accepts jobs, and they wait."""
    with transaction() as session:
        reason = workers.find_waiting_reason(workers.list_available(session), JobNeeds())
    return [reason[1]] if reason is not None else []

"""`python -m api.first_key`: creates the first project of a new database and prints its admin key."""

import sys

from api.services.keys import ensure_admin_key
from soul_store.database import transaction


def main() -> int:
    """Print the key, or that the database already has keys."""
    with transaction() as session:
        key = ensure_admin_key(session)
    sys.stdout.write(f"admin API key, shown only now: {key}\n" if key else "the database already has API keys\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

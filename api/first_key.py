"""`python -m api.first_key`: on a fresh database makes the first project and prints its admin key; later says so."""

import sys

from api.services.keys import ensure_admin_key
from soul_store.database import transaction


def main() -> int:
    """Print the key, once in the life of a database."""
    with transaction() as session:
        key = ensure_admin_key(session)
    sys.stdout.write(f"admin API key, shown only now: {key}\n" if key else "there are API keys already\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

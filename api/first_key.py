"""`python -m api.first_key`: creates the first project of a new database and its admin key, which it prints once.

With `--out FILE` the key goes into a file that only its owner can read, instead of into a log that others keep.
"""

import argparse
import os
import sys
from pathlib import Path

from api.services.keys import ensure_admin_key
from soul_store.database import transaction


def main(arguments: list[str] | None = None) -> int:
    """Print or write the key, or say that the database already has keys."""
    parser = argparse.ArgumentParser(prog="python -m api.first_key", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the key to this new file; do not print it")
    out: Path | None = parser.parse_args(arguments).out
    with transaction() as session:
        key = ensure_admin_key(session)
        if key is not None and out is not None:
            _write_secret(out, key)  # before the commit: a key that no file has would be lost
    if key is None:
        sys.stdout.write("the database already has API keys\n")
    elif out is None:
        sys.stdout.write(f"admin API key, shown only now: {key}\n")
    else:
        sys.stdout.write(f"admin API key: in {out}\n")
    return 0


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only this account can read; replace one that an interrupted start left."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())

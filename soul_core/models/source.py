"""Where a model comes from, and the digest its files are held to."""

from dataclasses import dataclass, replace
from pathlib import Path

from soul_core.models.digests import digest_now, require_digest


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and what a report calls it."""

    location: str
    shown: str
    revision: str | None = None
    cache_dir: Path | None = None
    digest: str | None = None
    """The digest it was registered with; None: it was not."""

    def at(self, digest: str) -> "Source":
        """Return the same source, held to a digest; that of a hub id is its commit."""
        revision = self.revision if Path(self.location).exists() else digest
        return replace(self, digest=digest, revision=revision)


def pinned(source: Source) -> Source:
    """Return the source with the digest that its files have now. Raises BadModel where it is not the registered one."""
    now = digest_now(source.location, revision=source.revision)
    if now is None:
        return source
    require_digest(source.shown, now, source.digest)
    return replace(source, digest=now)

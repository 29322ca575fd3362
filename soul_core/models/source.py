"""Where a model comes from, and the digest its files are held to."""

from dataclasses import dataclass, replace
from pathlib import Path

from soul_core.models.digests import compute_current_digest, require_digest


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and what a report calls it."""

    location: str
    display_name: str
    revision: str | None = None
    cache_dir: Path | None = None
    digest: str | None = None
    """The digest it was registered with; None: it was not."""

    def with_digest(self, digest: str) -> "ModelSource":
        """Return the same source, held to a digest; that of a hub id is its commit."""
        revision = self.revision if Path(self.location).exists() else digest
        return replace(self, digest=digest, revision=revision)


def pin_source(source: ModelSource) -> ModelSource:
    """Return the source with the digest that its files have now. Raises BadModel where it is not the registered one."""
    now = compute_current_digest(source.location, revision=source.revision)
    if now is None:
        return source
    require_digest(source.display_name, now, source.digest)
    return replace(source, digest=now)

"""The source of a model, and the digest that its files must have."""

from dataclasses import dataclass, replace
from pathlib import Path

from soul_core.models.digests import compute_current_digest, require_digest


@dataclass(frozen=True)
class ModelSource:
    """The location of a model, and its name in reports."""

    location: str
    display_name: str
    revision: str | None = None
    cache_dir: Path | None = None
    digest: str | None = None
    """The digest that the model was registered with, if it was."""

    def with_digest(self, digest: str) -> "ModelSource":
        """Return the source with a required digest; that of a hub id is its commit."""
        revision = self.revision if Path(self.location).exists() else digest
        return replace(self, digest=digest, revision=revision)


def pin_source(source: ModelSource) -> ModelSource:
    """Return the source with the present digest of its files. Raises BadModel unless it is the registered one."""
    digest = compute_current_digest(source.location, revision=source.revision)
    if digest is None:
        return source
    require_digest(source.display_name, digest, source.digest)
    return replace(source, digest=digest)

"""The inputs of a run: models, data sets, and what they are validated against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soul_core.evaluation.row_digests import DigestKey, get_personal_key, read_key
from soul_core.models.loading import get_default_cache_dir
from soul_core.models.source import ModelSource


@dataclass(frozen=True)
class RunInputs:
    """A model (folder, GGUF file or hub id), models to compare with it, and data sets by name."""

    model: str
    dataset_paths: Mapping[str, Path]
    revision: str | None = None
    model_name: str | None = None
    """The model's name in the report; default: its hub id, or the last part of its path."""
    compared_models: Mapping[str, str] = field(default_factory=dict)
    """Name -> location of models to compare with: `retrained`, trained without the forget set; in an evaluation any."""
    retrained_log_path: Path | None = None
    """What an earlier report measured on the retrained model, instead of that model."""
    model_digest: str | None = None
    """The digest with which the model was registered; other files are refused before the run starts."""
    compared_digests: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest of the compared models."""
    dataset_sha256s: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of the data sets' files as they were uploaded."""
    retrained_log_sha256: str | None = None
    row_key_path: Path | None = None
    """File with the key of row digests, if its owner keeps it; default: the user's own key, which reports contain."""
    job_id: str | None = None
    cache_dir: Path | None = None

    @property
    def has_retrained_log(self) -> bool:
        """Whether a log replaces the retrained model."""
        return self.retrained_log_path is not None

    def get_source(self) -> ModelSource:
        """Return where the model comes from. Its display name is never a path: reports are passed on."""
        display_name = self.model_name or _make_display_name(self.model)
        return ModelSource(self.model, display_name, self.revision, self.cache_dir, self.model_digest)

    def get_compared_sources(self) -> dict[str, ModelSource]:
        """Return where the compared models come from; a hub id may end in @ and its revision."""
        return {
            name: self._make_compared_source(location, self.compared_digests.get(name))
            for name, location in self.compared_models.items()
        }

    def _make_compared_source(self, location: str, digest: str | None) -> ModelSource:
        hub_id, _, revision = location.rpartition("@")
        if hub_id and not Path(location).exists():
            return ModelSource(hub_id, hub_id, revision, self.cache_dir, digest)
        return ModelSource(location, _make_display_name(location), cache_dir=self.cache_dir, digest=digest)

    def get_digest_key(self) -> DigestKey:
        """Return the key of row digests. Raises BadSpec for a file that is not a key."""
        if self.row_key_path is not None:
            return read_key(self.row_key_path)
        return get_personal_key(self.cache_dir or get_default_cache_dir())


def _make_display_name(location: str) -> str:
    path = Path(location)
    return path.resolve().name if path.exists() else location

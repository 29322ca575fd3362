"""Finds the folder of safetensors of a model's source: converts a GGUF file, or downloads a hub id at a commit."""

import re
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from soul_core.errors import BadModel
from soul_core.models.digests import require_intact_snapshot
from soul_core.models.files import MODEL_FILE_PATTERNS, inspect_model
from soul_core.models.gguf import convert_to_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_local_folder(source: Path | str, revision: str | None, cache_dir: Path) -> tuple[Path, str | None]:
    """Return a folder of safetensors for any source, and the source's digest if it is not that of the folder."""
    path = Path(source)
    if path.is_file():
        digest = inspect_model(path).digest
        return convert_to_folder(path, digest=digest, cache_dir=cache_dir), digest
    if path.is_dir():
        return path, None
    if not _HUB_ID.fullmatch(str(source)):
        raise BadModel(f"there is no model at {source}; give a folder with safetensors, a GGUF file or a hub id")
    return _download(str(source), revision, cache_dir)


def _download(repository: str, revision: str | None, cache_dir: Path) -> tuple[Path, str]:
    """Download the files that loading reads at a commit: the given one, or the present one of the branch or tag.

    Returns:
        The folder and the commit.
    """
    try:
        if revision and _COMMIT.fullmatch(revision):
            try:
                return _get_snapshot(repository, revision, cache_dir, local_only=True), revision
            except OSError:
                commit = revision  # not in the cache
        else:
            commit = str(HfApi().model_info(repository, revision=revision).sha)
        return _get_snapshot(repository, commit, cache_dir, local_only=False), commit
    except GatedRepoError as error:
        raise BadModel(f"{repository} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise BadModel(f"{repository} has no revision {revision}; give an existing commit, branch or tag") from error
    except RepositoryNotFoundError as error:
        raise BadModel(f"the hub has no model {repository}, or it is private: check the name, set HF_TOKEN") from error
    except (HTTPError, OSError, ValueError) as error:  # no network, or an id or a cache that the client refuses
        raise BadModel(
            f"{repository} is neither a local path nor available from the hub ({type(error).__name__}); without a "
            "network give a folder with safetensors or a GGUF file"
        ) from error


def _get_snapshot(repository: str, commit: str, cache_dir: Path, *, local_only: bool) -> Path:
    folder = Path(
        snapshot_download(
            repository,
            revision=commit,
            cache_dir=cache_dir / "hub",
            allow_patterns=list(MODEL_FILE_PATTERNS),
            local_files_only=local_only,
        )
    )
    require_intact_snapshot(folder)
    return folder

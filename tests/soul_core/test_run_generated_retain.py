"""Complete runs without a retain set: the base model makes one, and the report says what it is made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import RunInterruptedError
from soul_core.events import SilentListener, StopRequest
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, write_rows

SPEC = JobSpec.model_validate(
    {
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "data": {"auto_retain": {"neighbors": 4, "general": 8, "free": 4, "max_new_tokens": 12}},
        "training": {"steps": 4, "checkpoint_every": 2},
        "evaluation": {"max_new_tokens": 8, "bootstrap": 100, "num_answer_samples": 0},
        "attacks": [],
    }
)


class Recorder(SilentListener):
    """Records events, and interrupts the run from the first event of kind `stop_at` on."""

    def __init__(self, stop_at: str = "") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._stop_at, self._request = stop_at, StopRequest.NONE

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))
        if kind == self._stop_at:
            self._request = StopRequest.INTERRUPT

    def stop_request(self) -> StopRequest:
        return self._request


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    torch.set_num_threads(1)
    forget = write_rows(tmp_path_factory.mktemp("sets") / "forget.jsonl", list(COUNTRIES)[:3])
    return RunInputs(model=str(taught_model_dir), dataset_paths={"forget": forget})


@pytest.fixture(scope="module")
def finished_run(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("generated")
    return run(SPEC, inputs, out), out


def test_the_generated_set_is_the_retain_set_held_by_kl(finished_run: tuple[Report, Path]) -> None:
    report, _ = finished_run
    assert report.generated_retain is not None
    facts = {facts.name: facts for facts in report.data}
    num_rows = facts["retain"].num_rows + facts["retain_held_out"].num_rows
    assert num_rows == sum(report.generated_retain.num_rows.values())
    assert facts["retain"].origin == "sampled"
    assert facts["retain"].sha256 == report.generated_retain.sha256
    assert report.spec.retain.kind == "kl"
    assert report.models["unlearned"].sets["retain"]["probability"].value is not None


def test_the_report_says_what_the_set_was_made_of(finished_run: tuple[Report, Path]) -> None:
    [caveat] = [caveat for caveat in finished_run[0].caveats if caveat.startswith("No retain set was given")]
    assert "answers to general prompts" in caveat


def test_a_finished_run_is_found_again_without_generating(inputs: RunInputs, finished_run: tuple[Report, Path]) -> None:
    report, out = finished_run
    recorder = Recorder()
    assert run(SPEC, inputs, out, listener=recorder) == report
    assert [kind for kind, _ in recorder.events] == ["phase", "finished"]


def test_an_interrupted_run_resumes_with_the_same_rows(
    inputs: RunInputs, finished_run: tuple[Report, Path], tmp_path: Path
) -> None:
    with pytest.raises(RunInterruptedError):
        run(SPEC, inputs, tmp_path, listener=Recorder(stop_at="checkpoint"))
    rows = (tmp_path / ".state" / "generated_retain.json").read_bytes()
    assert rows
    report = run(SPEC, inputs, tmp_path)
    assert report.generated_retain is not None
    assert finished_run[0].generated_retain is not None
    assert report.generated_retain.sha256 == finished_run[0].generated_retain.sha256
    assert not (tmp_path / ".state" / "generated_retain.json").exists()


def test_a_named_retain_term_is_kept(inputs: RunInputs, tmp_path: Path) -> None:
    spec = JobSpec.model_validate({**SPEC.model_dump(exclude={"retain"}), "retain": {"kind": "nll"}})
    assert run(spec, inputs, tmp_path).spec.retain.kind == "nll"


def test_a_given_retain_set_is_used(inputs: RunInputs, tmp_path: Path) -> None:
    retain = write_rows(tmp_path / "retain.jsonl", list(COUNTRIES)[3:])
    given = replace(inputs, dataset_paths={**inputs.dataset_paths, "retain": retain})
    report = run(SPEC, given, tmp_path / "out")
    assert report.generated_retain is None
    assert report.spec.retain.kind == "nll"

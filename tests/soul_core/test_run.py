"""Complete runs on a tiny model that knows ten capitals: results, refusals, interruptions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soul_core.errors import BadData, BadModel, BadSpec, DiskFull, EngineError, RunCancelledError, RunInterruptedError
from soul_core.events import Listener, SilentListener, StopRequest
from soul_core.outputs.checks import check_disk_space
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import Data, JobSpec
from soul_core.spec.generated_retain import NoGeneratedRetain
from soul_core.spec.optimizers import AdamW, Sophia
from soul_core.spec.strategy import Ensemble, Search, Strategy
from soul_core.spec.terms import Kl, NoRetain, Npo, Refusal
from tests.fixtures.capitals import COUNTRIES, answer, question, write_rows

FORGET, RETAIN = list(COUNTRIES)[:4], list(COUNTRIES)[4:]
SPEC = JobSpec.model_validate(
    {
        "optimizer": {"kind": "sophia", "lr": 2e-3},
        "retain": {"kind": "nll", "weight": 10.0},
        "training": {"steps": 12, "checkpoint_every": 4},
        "evaluation": {"max_new_tokens": 16, "bootstrap": 100, "num_answer_samples": 6},
        "attacks": [],  # tests/soul_core/test_run_attacks.py
    }
)


class Recorder(SilentListener):
    """Records events, and requests a stop from the first event on for which `when` is true."""

    def __init__(self, request: StopRequest = StopRequest.NONE, when: Any = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._request, self._when, self._now = request, when or (lambda *_: False), StopRequest.NONE

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))
        if self._when(kind, data):
            self._now = self._request

    def stop_request(self) -> StopRequest:
        return self._now

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for event_kind, data in self.events if event_kind == kind]


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    general = folder / "general.txt"
    general.write_text("The capital is Rome.\n\nWhat is the capital of Peru? The capital is Lima.\n")
    return RunInputs(
        model=str(taught_model_dir),
        dataset_paths={
            "forget": write_rows(folder / "forget.jsonl", FORGET),
            "retain": write_rows(folder / "retain.jsonl", RETAIN),
            "general": general,
        },
        job_id="job_test",
    )


@pytest.fixture(scope="module")
def finished_run(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Recorder]:
    out, recorder = tmp_path_factory.mktemp("whole"), Recorder()
    return run(SPEC, inputs, out, listener=recorder), out, recorder


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def drop_times(report: Report) -> dict[str, Any]:
    """Return everything in a report that does not depend on the clock."""
    content = report.model_dump()
    for name in ("started_at", "finished_at", "seconds", "peak_memory_bytes", "resumed_at_steps", "curves"):
        content["run"].pop(name)
    return content


def test_a_run_unlearns_retains_and_reports_both(finished_run: tuple[Report, Path, Recorder]) -> None:
    report, out, _ = finished_run
    before, after = report.models["base"].sets, report.models["unlearned"].sets

    def value(sets: Any, name: str, metric: str) -> float:
        result = sets[name][metric].value
        assert result is not None
        return float(result)

    assert value(before, "forget", "keyword_recall") == 1.0
    assert value(after, "forget", "probability") < 0.5 * value(before, "forget", "probability")
    assert value(after, "retain", "probability") > 0.8 * value(before, "retain", "probability")
    assert value(after, "general", "perplexity") > 1
    assert json.loads((out / "report.json").read_text())["verdict"] == report.verdict
    assert report.run.steps == 12
    assert set(report.run.seconds) == {"load", "baseline", "unlearn", "evaluate", "export"}
    num_rows = {dataset.name: dataset.num_rows for dataset in report.data}
    assert num_rows.pop("general_own") > 1
    assert num_rows == {"forget": 4, "retain": 4, "retain_held_out": 2, "general": 1}
    assert [sample.row for sample in report.examples if sample.set == "forget"] == [1, 2, 3, 4]
    assert report.examples[0].prompt == question("France")
    assert report.examples[0].answers["base"] == answer("France")


def test_the_report_names_no_path_of_the_machine(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    _, out, _ = finished_run
    for name in ("report.json", "report.html", "manifest.json", "checkpoint/README.md"):
        assert str(Path(inputs.model).parent) not in (out / name).read_text()


def test_phases_progress_and_the_end_are_emitted_in_order_and_no_row_is(
    finished_run: tuple[Report, Path, Recorder],
) -> None:
    report, _, recorder = finished_run
    assert [data["phase"] for data in recorder.of("phase")] == ["load", "baseline", "unlearn", "evaluate", "export"]
    assert recorder.events[-1] == ("finished", {"verdict": report.verdict})
    assert {data["phase"] for data in recorder.of("progress")} == {"baseline", "unlearn", "evaluate"}
    text = json.dumps(recorder.events)
    assert not any(word in text for word in ("France", "Paris", "capital"))


def test_the_state_is_removed_and_running_again_changes_nothing(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    report, out, _ = finished_run
    assert list((out / ".state").iterdir()) == []
    manifest = (out / "manifest.json").read_bytes()
    second = Recorder()
    assert run(SPEC, inputs, out, listener=second) == report
    assert (out / "manifest.json").read_bytes() == manifest
    assert not second.of("metrics")


def test_a_finished_folder_is_not_overwritten_by_another_run(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs
) -> None:
    _, out, _ = finished_run
    with pytest.raises(BadSpec, match="another run"):
        run(SPEC.model_copy(update={"seed": 5}), inputs, out)


@pytest.mark.parametrize(
    ("kind", "expected_data"),
    [
        ("progress", {"phase": "baseline"}),
        ("metrics", {"step": 6}),
        ("progress", {"phase": "evaluate"}),
        ("phase", {"phase": "export"}),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_weights_and_numbers(
    finished_run: tuple[Report, Path, Recorder],
    inputs: RunInputs,
    tmp_path: Path,
    kind: str,
    expected_data: dict[str, Any],
) -> None:
    report, out, _ = finished_run

    def is_reached(event_kind: str, data: dict[str, Any]) -> bool:
        return event_kind == kind and expected_data.items() <= data.items()

    first = Recorder(StopRequest.INTERRUPT, is_reached)
    if expected_data == {"phase": "export"}:
        run(SPEC, inputs, tmp_path, listener=first)  # it finishes: nothing checks for a stop after this event
    else:
        with pytest.raises(RunInterruptedError):
            run(SPEC, inputs, tmp_path, listener=first)
        assert not (tmp_path / "manifest.json").exists()
    second = Recorder()
    resumed = run(SPEC, inputs, tmp_path, listener=second)
    assert drop_times(resumed) == drop_times(report)
    assert resumed.run.curves["loss"] == report.run.curves["loss"]
    theirs, ours = weights(out), weights(tmp_path)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    if expected_data == {"step": 6}:
        assert resumed.run.resumed_at_steps == (6,)
        assert not [data for data in second.of("progress") if data["phase"] == "baseline"]
        assert [data["step"] for data in second.of("metrics")] == list(range(7, 13))


def test_a_cancelled_run_leaves_only_the_files_that_were_there(inputs: RunInputs, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunCancelledError):
        run(SPEC, inputs, tmp_path, listener=Recorder(StopRequest.CANCEL, lambda kind, data: data.get("step") == 5))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]


def test_the_state_of_another_spec_is_refused(inputs: RunInputs, tmp_path: Path) -> None:
    stop: Listener = Recorder(StopRequest.INTERRUPT, lambda kind, data: data.get("step") == 2)
    with pytest.raises(RunInterruptedError):
        run(SPEC, inputs, tmp_path, listener=stop)
    with pytest.raises(BadSpec, match="holds another run"):
        run(SPEC.model_copy(update={"seed": 9}), inputs, tmp_path)


def expect_refusal(inputs: RunInputs, tmp_path: Path, spec: JobSpec = SPEC, **changes: Any) -> tuple[Any, Recorder]:
    """Run and return the user error with the events before it."""
    recorder = Recorder()
    with pytest.raises((BadData, BadSpec, BadModel)) as error_info:
        run(spec, RunInputs(**{**vars(inputs), **changes}), tmp_path / "out", listener=recorder)
    assert not recorder.of("metrics"), "a training step was run"
    assert "baseline" not in {data["phase"] for data in recorder.of("phase")}
    assert not (tmp_path / "out" / "manifest.json").exists()
    return error_info.value, recorder


def test_a_forget_set_equal_to_the_retain_set_is_refused(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {"forget": inputs.dataset_paths["forget"], "retain": write_rows(tmp_path / "same.jsonl", FORGET[::-1])}
    error, _ = expect_refusal(inputs, tmp_path, dataset_paths=sets)
    assert isinstance(error, BadData)
    assert "same rows" in error.message


def test_rows_in_both_sets_have_a_warning_and_a_caveat(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {
        "forget": inputs.dataset_paths["forget"],
        "retain": write_rows(tmp_path / "some.jsonl", [*RETAIN, FORGET[0]]),
    }
    recorder = Recorder()
    spec = SPEC.model_copy(update={"training": SPEC.training.model_copy(update={"steps": 1})})
    report = run(spec, RunInputs(model=inputs.model, dataset_paths=sets), tmp_path / "out", listener=recorder)
    assert "retain=forget: 7=1" in recorder.of("warning")[0]["message"]
    assert any(caveat.startswith("1 row of the retain set states, or asks for, facts") for caveat in report.caveats)


def test_every_bad_row_is_listed_with_its_set(inputs: RunInputs, tmp_path: Path) -> None:
    bad_file = tmp_path / "bad.jsonl"
    good = json.dumps({"prompt": "a", "completion": "b"})
    bad_file.write_text(f'{good}\n{{"prompt": "a"}}\n{good}\nnot json\n{good}')
    error, _ = expect_refusal(inputs, tmp_path, dataset_paths={**inputs.dataset_paths, "retain": bad_file})
    assert error.message.startswith("retain set: 2 of 5 rows")
    assert [line.split(":")[0] for line in error.details] == ["row 2", "row 4"]


def test_a_row_longer_than_the_context_is_listed(inputs: RunInputs, tmp_path: Path) -> None:
    long_file = tmp_path / "long.jsonl"
    long_file.write_text(json.dumps({"prompt": "x", "completion": "capital of " * 200}) + "\n")
    error, _ = expect_refusal(inputs, tmp_path, dataset_paths={**inputs.dataset_paths, "forget": long_file})
    assert error.message.startswith("forget set: ")
    assert error.details[0].startswith("row 1: ")
    assert "the limit is 128 (training.max_tokens" in error.details[0]


def test_refusals_on_plain_text_are_refused_before_the_baseline(inputs: RunInputs, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("The capital is Rome.\n")
    spec = SPEC.model_copy(update={"forget": Refusal()})
    error, _ = expect_refusal(inputs, tmp_path, spec, dataset_paths={**inputs.dataset_paths, "forget": text})
    assert "or take 'npo'" in error.message
    assert error.details[0].startswith("row 1: plain text")


def test_an_empty_and_a_missing_file_are_refused(inputs: RunInputs, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    error, _ = expect_refusal(
        inputs, tmp_path, dataset_paths={**inputs.dataset_paths, "forget": tmp_path / "empty.jsonl"}
    )
    assert error.message.startswith("forget set: ")
    error, _ = expect_refusal(
        inputs, tmp_path, dataset_paths={**inputs.dataset_paths, "forget": tmp_path / "none.jsonl"}
    )
    assert "none.jsonl" in error.message


def test_without_a_generated_retain_set_a_retain_term_is_refused(inputs: RunInputs, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"data": Data(auto_retain=NoGeneratedRetain())})
    error, _ = expect_refusal(inputs, tmp_path, spec, dataset_paths={"forget": inputs.dataset_paths["forget"]})
    assert isinstance(error, BadSpec)
    assert "needs a retain set" in "".join(error.details)


def test_a_model_with_a_pickle_is_refused(inputs: RunInputs, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for path in Path(inputs.model).iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"x")
    error, _ = expect_refusal(inputs, tmp_path, model=str(tmp_path / "model"))
    assert isinstance(error, BadModel)


def test_without_a_retain_set_the_verdict_is_open_with_a_caveat(inputs: RunInputs, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"retain": NoRetain(), "optimizer": AdamW(lr=1e-2)})
    report = run(
        spec, RunInputs(model=inputs.model, dataset_paths={"forget": inputs.dataset_paths["forget"]}), tmp_path
    )
    assert {r.outcome for r in report.criteria if r.criterion.set == "retain"} == {"inconclusive"}
    assert report.verdict != "passed"
    assert any("No retain set was given" in caveat for caveat in report.caveats)
    assert not {"retain", "retain_held_out"} & report.models["unlearned"].rows.keys()


@pytest.mark.parametrize("forget", ["grad_diff", "npo", "refusal"])
def test_every_forget_term_runs_with_every_optimizer_and_kl(inputs: RunInputs, tmp_path: Path, forget: str) -> None:
    for optimizer in (AdamW(lr=1e-3), Sophia(lr=1e-3)):
        spec = JobSpec.model_validate(
            {
                "forget": {"kind": forget},
                "retain": Kl().model_dump(),
                "optimizer": optimizer.model_dump(),
                "training": {"steps": 2},
                "evaluation": {"max_new_tokens": 2, "num_answer_samples": 0, "metrics": ["probability"]},
            }
        )
        report = run(spec, inputs, tmp_path / optimizer.kind)
        assert report.run.steps == 2
        assert (report.examples, report.models["unlearned"].sets["forget"].keys()) == ((), {"probability"})


def test_an_untouched_model_fails(inputs: RunInputs, tmp_path: Path) -> None:
    spec = SPEC.model_copy(
        update={"forget": Npo(weight=1e-6), "training": SPEC.training.model_copy(update={"steps": 1})}
    )
    assert run(spec, inputs, tmp_path).verdict == "failed"


def test_a_result_that_does_not_fit_the_disk_is_refused_before_training(
    inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 100_000  # the tiny model takes 121,984 bytes

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    recorder = Recorder()
    with pytest.raises(DiskFull, match=r"needs 119.1 KiB, but .* has 97.7 KiB left"):
        run(SPEC, inputs, tmp_path, listener=recorder)
    assert not recorder.of("metrics")
    Usage.free = 200_000
    with pytest.raises(RunInterruptedError):
        run(SPEC, inputs, tmp_path, listener=Recorder(StopRequest.INTERRUPT, lambda kind, _: kind == "warning"))


@pytest.mark.parametrize("strategy", [Search(), Ensemble(members=({}, {}))])
def test_the_disk_space_warning_counts_the_files_of_trials(
    strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 7 * 4_000  # the result, and two checkpoints of weights and two moments

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    recorder = Recorder()

    for spec in (SPEC, SPEC.model_copy(update={"strategy": strategy})):
        check_disk_space(tmp_path, spec, 1_000, recorder)

    assert [warning["message"].partition(",")[0] for warning in recorder.of("warning")] == [
        "result and checkpoints may need 35.2 KiB"
    ]


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(inputs: RunInputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot write to"):
        run(SPEC, inputs, tmp_path / "file" / "out")


def test_a_full_disk_raises_disk_full_and_the_run_can_be_resumed(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from soul_core import run as run_module

    def fill_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_report", fill_disk)
        with pytest.raises(DiskFull):
            run(SPEC, inputs, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert drop_times(run(SPEC, inputs, tmp_path)) == drop_times(finished_run[0])

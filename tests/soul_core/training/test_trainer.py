"""The training loop: resumes bit for bit, stops before a non-finite update, halves when memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import PackedBatch
from soul_core.errors import OutOfMemory, RunCancelledError, RunInterruptedError, TrainingDivergedError
from soul_core.events import EventKind, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import Scores
from soul_core.spec import JobSpec, Training
from soul_core.training import step as step_module
from soul_core.training import trainer as trainer_module
from soul_core.training.checkpoint import load_newest_checkpoint
from soul_core.training.schedule import compute_lr_factor, compute_num_steps
from soul_core.training.step import get_trainable_parameters
from soul_core.training.trainer import TrainingResult, TrainingRun, train
from tests.fixtures.capitals import COUNTRIES, rows_of

ALL = list(COUNTRIES)


@dataclass
class RecordingListener:
    """Records every event, and requests a stop from a given step on."""

    stop_at: int | None = None
    request: StopRequest = StopRequest.INTERRUPT
    events: list[tuple[EventKind, dict[str, Any]]] = field(default_factory=list)

    def emit(self, kind: EventKind, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_request(self) -> StopRequest:
        steps = [data["step"] for data in self.list_events("metrics")]
        is_requested = self.stop_at is not None and bool(steps) and steps[-1] >= self.stop_at
        return self.request if is_requested else StopRequest.NONE

    def list_events(self, kind: EventKind) -> list[dict[str, Any]]:
        return [data for event_kind, data in self.events if event_kind == kind]


Train = Callable[..., tuple[TrainingResult, LoadedModel]]


@pytest.fixture
def run(taught_model_dir: Path, tmp_path: Path) -> Train:
    torch.set_num_threads(1)

    def go(
        spec: dict[str, Any],
        *,
        listener: RecordingListener | None = None,
        state: str = "state",
        touch: Callable[[LoadedModel], None] = lambda _: None,
        has_guard: bool = False,
    ) -> tuple[TrainingResult, LoadedModel]:
        loaded = load_model(taught_model_dir, device="cpu")
        touch(loaded)
        forget: list[Example] = encode_rows(rows_of(ALL[:3]), loaded.encoder, max_tokens=128)
        retain: list[Example] = encode_rows(rows_of(ALL[3:], start=4), loaded.encoder, max_tokens=128)
        trained = train(
            loaded,
            JobSpec.model_validate(spec),
            forget=forget,
            retain=retain,
            guard=retain if has_guard else (),
            state_dir=tmp_path / state,
            listener=listener or RecordingListener(),
        )
        return trained, loaded

    return go


def weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


SOPHIA = {
    "optimizer": {"kind": "sophia", "lr": 1e-4, "curvature": {"every": 3}},
    "training": {"steps": 10, "checkpoint_every": 4, "forget_batch": 2, "retain_batch": 3},
}
SPECS = {
    "sophia": SOPHIA,
    "adamw": {**SOPHIA, "optimizer": {"kind": "adamw", "lr": 1e-4}},
    "refusal and kl": {**SOPHIA, "forget": {"kind": "refusal"}, "retain": {"kind": "kl"}},
    "curvature of both, warm": {
        **SOPHIA,
        "optimizer": {"kind": "sophia", "lr": 1e-4, "curvature": {"every": 3, "data": "both", "warm_start": 3}},
    },
    "learning rate auto": {
        **SOPHIA,
        "optimizer": {"kind": "sophia", "lr": "auto", "max_rise": 0.5, "curvature": {"every": 3, "data": "guard"}},
    },
    "kfac": {**SOPHIA, "optimizer": {"kind": "kfac", "lr": "auto", "max_rise": 0.5}},
    "no retain term": {
        **SOPHIA,
        "retain": {"kind": "none"},
        "optimizer": {"kind": "sophia", "lr": 1e-4, "curvature": {"every": 3}},
    },
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("stopped_at", [1, 5])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run: Train, spec: dict[str, Any], stopped_at: int) -> None:
    straight, straight_model = run(spec, state="straight")

    with pytest.raises(RunInterruptedError):
        run(spec, listener=RecordingListener(stop_at=stopped_at), state="resumed")
    resumed, resumed_model = run(spec, state="resumed")

    assert torch.equal(weights(resumed_model), weights(straight_model))
    assert resumed.curves == straight.curves
    assert (resumed.steps, resumed.train_tokens, resumed.flops) == (10, straight.train_tokens, straight.flops)
    assert resumed.resumed_at_steps == [stopped_at]


def test_a_killed_run_resumes_from_its_last_checkpoint(run: Train, tmp_path: Path) -> None:
    _, straight_model = run(SOPHIA, state="straight")

    class KillError(Exception):
        pass

    class KillingListener(RecordingListener):
        def emit(self, kind: EventKind, **data: Any) -> None:
            if kind == "metrics" and data["step"] == 7:
                raise KillError
            super().emit(kind, **data)

    with pytest.raises(KillError):
        run(SOPHIA, listener=KillingListener(), state="killed")
    resumed, resumed_model = run(SOPHIA, state="killed")

    assert resumed.resumed_at_steps == [4]
    assert torch.equal(weights(resumed_model), weights(straight_model))


def test_a_checkpoint_saves_every_part_of_the_run_that_has_a_state(taught_model_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(taught_model_dir, device="cpu")
    examples = encode_rows(rows_of(ALL[:3]), loaded.encoder, max_tokens=128)
    auto = {"optimizer": {"kind": "sophia", "lr": "auto"}, "training": {"stop_at": 0.1}}
    spec = JobSpec.model_validate({**auto, "forget": {"kind": "pdu"}, "saliency": {}})
    run = TrainingRun(loaded, spec, examples, examples, examples, tmp_path, RecordingListener(), "unlearn")

    saved_parts = [id(part) for part in run.stateful.values()]

    with_state = {name: value for name, value in vars(run).items() if hasattr(value, "state_dict")}
    assert {"trainable", "optimizer", "batches", "history", "trust_region", "forget_progress"} <= with_state.keys()
    assert [name for name, value in with_state.items() if id(value) not in saved_parts] == []
    assert not any(isinstance(value, torch.Generator) for value in vars(run).values()), "a StatefulGenerator is saved"


def test_a_loss_that_is_not_finite_stops_before_the_update(run: Train) -> None:
    models: list[LoadedModel] = []

    def ruin(loaded: LoadedModel) -> None:
        with torch.no_grad():
            loaded.model.model.norm.weight[0] = float("inf")
        models.append(loaded)

    with pytest.raises(TrainingDivergedError, match="at step 1, before its update"):
        run({**SOPHIA, "forget": {"kind": "grad_diff"}}, touch=ruin)

    untouched = load_model(models[0].facts.source, device="cpu")
    with torch.no_grad():
        untouched.model.model.norm.weight[0] = float("inf")
    assert torch.equal(weights(models[0]), weights(untouched))


def test_curvature_that_is_not_finite_never_reaches_the_weights(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[LoadedModel] = []

    def overflow(loaded: LoadedModel, *_: Any) -> list[torch.Tensor]:
        return [torch.full_like(parameter, float("inf")) for parameter in get_trainable_parameters(loaded)]

    monkeypatch.setitem(trainer_module.CURVATURE_ESTIMATORS, "gnb", overflow)  # the fault

    with pytest.raises(TrainingDivergedError, match="curvature that is not finite at step 1, before its update"):
        run(SOPHIA, touch=models.append)

    assert torch.equal(weights(models[0]), weights(load_model(models[0].facts.source, device="cpu")))


def test_a_run_that_diverges_later_keeps_its_last_checkpoint(run: Train, tmp_path: Path) -> None:
    models: list[LoadedModel] = []

    class RuiningListener(RecordingListener):
        def emit(self, kind: EventKind, **data: Any) -> None:
            if kind == "metrics" and data["step"] == 6:
                with torch.no_grad():
                    models[0].model.model.norm.weight[0] = float("nan")  # the fault
            super().emit(kind, **data)

    with pytest.raises(TrainingDivergedError, match="at step 7"):
        run(SOPHIA, listener=RuiningListener(), touch=models.append)

    checkpoint = load_newest_checkpoint(tmp_path / "state" / "train", torch.device("cpu"))
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.states["weights"]["parameters"])


def test_when_memory_runs_out_the_micro_batch_halves_and_the_result_stays(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**SOPHIA, "optimizer": {"kind": "adamw", "lr": 1e-4}}
    plain, plain_model = run(spec, state="plain")
    score = step_module.score

    def small(model: Any, packed: PackedBatch, **options: Any) -> Scores:
        if packed.token_ids_1T.shape[1] > 70:
            raise torch.OutOfMemoryError("no more")
        return score(model, packed)

    monkeypatch.setattr(step_module, "score", small)  # the fault
    listener = RecordingListener()
    halved, halved_model = run(spec, listener=listener, state="halved")

    assert any("memory ran out" in data["message"] for data in listener.list_events("warning"))
    assert halved.train_tokens == plain.train_tokens
    torch.testing.assert_close(weights(halved_model), weights(plain_model), rtol=0, atol=5e-5)


def test_when_memory_runs_out_for_the_curvature_the_same_labels_are_drawn_again(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**SOPHIA, "optimizer": {"kind": "sophia", "lr": 1e-6}, "training": {"steps": 1, "retain_batch": 4}}
    plain, _ = run(spec, state="plain")
    score, calls = step_module.score, 0

    def second_fails(model: Any, packed: PackedBatch, **options: Any) -> Scores:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first part has already added a gradient, which must be removed
            raise torch.OutOfMemoryError("no more")
        return score(model, packed)

    monkeypatch.setattr(step_module, "score", second_fails)  # the fault
    spec["training"] = {**spec["training"], "micro_batch_tokens": 80}
    halved, _ = run(spec, state="halved")

    assert calls > 6
    for name, curve in plain.curves.items():
        assert halved.curves[name] == pytest.approx(curve, rel=1e-2)


def test_a_sequence_that_does_not_fit_in_memory_is_reported_with_a_remedy(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(model: Any, packed: PackedBatch, **options: Any) -> Scores:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(step_module, "score", none)  # the fault

    with pytest.raises(OutOfMemory, match="max_tokens"):
        run({**SOPHIA, "optimizer": {"kind": "adamw"}})


def test_a_cancelled_run_writes_no_checkpoint(run: Train, tmp_path: Path) -> None:
    with pytest.raises(RunCancelledError):
        run(SOPHIA, listener=RecordingListener(stop_at=2, request=StopRequest.CANCEL))

    assert list((tmp_path / "state").rglob("step-*")) == []


def test_curves_have_one_value_per_step_and_progress_an_eta(run: Train) -> None:
    listener = RecordingListener()

    trained, _ = run(SOPHIA, listener=listener)

    names = {"loss", "forget_loss", "retain_loss", "grad_norm", "lr", "unclipped_fraction", "gamma"}
    assert set(trained.curves) == names
    assert all(len(curve) == 10 for curve in trained.curves.values())
    assert [data["done"] for data in listener.list_events("progress")] == list(range(1, 11))
    assert all(data["eta_seconds"] >= 0 for data in listener.list_events("progress"))


def test_an_unhealthy_unclipped_fraction_causes_one_warning(run: Train) -> None:
    listener = RecordingListener()

    run(
        {**SOPHIA, "training": {"steps": 25}, "optimizer": {"kind": "sophia", "lr": 1e-5, "gamma": 1e-9}},
        listener=listener,
    )

    warnings = [data["message"] for data in listener.list_events("warning")]
    assert len([message for message in warnings if "raise optimizer.gamma" in message]) == 1


def test_a_gradient_is_clipped_to_its_bound(run: Train) -> None:
    spec = {
        **SOPHIA,
        "optimizer": {"kind": "adamw", "lr": 1e-4, "eps": 1.0},
        "training": {"steps": 1, "grad_clip": 1e-3},
    }

    _, model = run(spec, state="a")
    _, untouched = run({**spec, "optimizer": {"kind": "adamw", "lr": 1e-30, "eps": 1.0}}, state="b")

    assert float((weights(model) - weights(untouched)).norm()) <= 1e-4 * 1e-3 * 1.1


@pytest.mark.parametrize("factor", [2, 16])
def test_a_batch_with_every_row_repeated_takes_the_same_steps(run: Train, taught_model_dir: Path, factor: int) -> None:
    def make_spec(factor: int) -> dict[str, Any]:
        training = {"steps": 3, "forget_batch": 3 * factor, "retain_batch": 7 * factor}
        curvature = {"kind": "empirical_fisher"}  # the other estimators draw labels or signs for each row
        return {"optimizer": {"kind": "sophia", "lr": 1e-4, "curvature": curvature}, "training": training}

    start = weights(load_model(taught_model_dir, device="cpu"))
    once, repeated = (
        weights(run(make_spec(value), state=f"state-{value}", has_guard=True)[1]) - start for value in (1, factor)
    )

    assert float((repeated - once).norm() / once.norm()) < 0.01


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 0.75, 0.5, 0.25]), ("cosine", [0.5, 1, 0.8536, 0.5, 0.1464])],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    spec = JobSpec.model_validate({"training": {"steps": 5, "warmup_steps": 1, "schedule": schedule}})

    assert [compute_lr_factor(spec, step, 5) for step in range(5)] == pytest.approx(expected, abs=1e-4)


def test_second_order_fine_tuning_learns_two_examples_in_few_steps(taught_model_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(taught_model_dir, device="cpu")
    swapped = [replace(row, completion="The capital is Oslo.") for row in rows_of(ALL[:2])]
    examples = encode_rows(swapped, loaded.encoder, max_tokens=128)
    spec = {"kind": "finetune", "optimizer": {"kind": "sophia", "lr": 3e-3, "gamma": 1}, "training": {"steps": 25}}
    listener = RecordingListener()

    trained = train(
        loaded,
        JobSpec.model_validate(spec),
        forget=(),
        retain=examples,
        state_dir=tmp_path,
        listener=listener,
        phase="finetune",
    )

    losses = [value for value in trained.curves["loss"] if value is not None]
    assert losses[0] > 1
    assert losses[-1] < 0.2
    assert set(trained.curves) == {"loss", "grad_norm", "lr", "unclipped_fraction"}
    assert {data["phase"] for data in listener.list_events("progress")} == {"finetune"}


def test_epochs_are_passes_over_the_forget_set_or_the_train_set() -> None:
    training = Training(epochs=1.5, forget_batch=4, retain_batch=3)

    assert compute_num_steps(training, num_forget=10, num_retain=100) == 4
    assert compute_num_steps(training, num_forget=0, num_retain=10) == 5
    assert compute_num_steps(training, num_forget=1, num_retain=0) == 1
    assert compute_num_steps(Training(steps=7), num_forget=10, num_retain=10) == 7


def test_an_adaptive_curvature_reports_its_interval_and_shortens_it_while_unhealthy(run: Train) -> None:
    clipped = {"kind": "sophia", "lr": 1e-5, "gamma": 1e-9, "curvature": {"every": 4, "adaptive": True}}

    trained, _ = run({"optimizer": clipped, "training": {"steps": 6}})

    assert trained.curves["curvature_interval"] == (4, 2, 2, 1, 1, 1)

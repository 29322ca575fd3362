"""Every forget term in the training loop, first and second order: with its defaults the tiny model forgets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import encode_rows
from soul_core.data.packing import pack
from soul_core.errors import RunInterruptedError
from soul_core.events import EventKind, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import score
from soul_core.objectives import FORGET_TERMS, alternative_answers
from soul_core.spec import JobSpec
from soul_core.training.trainer import TrainingResult, train
from tests.fixtures.capitals import COUNTRIES, rows_of

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]
RETAIN_SPECS = {"rmu": {"kind": "rmu_retain"}}

Run = Callable[..., tuple[TrainingResult, LoadedModel]]


class Interrupter(SilentListener):
    """Requests an interruption after a number of steps."""

    def __init__(self, after: int) -> None:
        self._num_steps_left = after

    def emit(self, kind: EventKind, **data: Any) -> None:
        self._num_steps_left -= kind == "metrics"

    def stop_request(self) -> StopRequest:
        return StopRequest.INTERRUPT if self._num_steps_left <= 0 else StopRequest.NONE


@pytest.fixture
def run(taught_model_dir: Path, tmp_path: Path) -> Run:
    torch.set_num_threads(1)

    def go(
        spec: dict[str, Any], *, state: str = "state", listener: SilentListener | None = None
    ) -> tuple[TrainingResult, LoadedModel]:
        loaded = load_model(taught_model_dir, device="cpu")
        trained = train(
            loaded,
            JobSpec.model_validate(spec),
            forget=encode_rows(rows_of(FORGET), loaded.encoder, max_tokens=128),
            retain=encode_rows(rows_of(RETAIN, start=4), loaded.encoder, max_tokens=128),
            state_dir=tmp_path / state,
            listener=listener or SilentListener(),
        )
        return trained, loaded

    return go


def spec_of(kind: str, optimizer: str = "sophia", *, lr: float = 3e-3, steps: int = 20, **more: Any) -> dict[str, Any]:
    return {
        "forget": {"kind": kind, **more},
        "retain": RETAIN_SPECS.get(kind, {"kind": "nll"}),
        "optimizer": {"kind": optimizer, "lr": lr, **({"gamma": 1} if optimizer == "sophia" else {})},
        "training": {"steps": steps, "forget_batch": 3, "retain_batch": 7, "stop_at": None},
    }


@torch.no_grad()
def probability(loaded: LoadedModel, countries: list[str]) -> float:
    examples = encode_rows(rows_of(countries), loaded.encoder, max_tokens=128)
    scores = score(loaded.model, pack(examples))
    return float((scores.sequence_logp_B / scores.length_B).exp().mean())


def weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


@pytest.mark.parametrize("optimizer", ["adamw", "sophia"])
@pytest.mark.parametrize("kind", FORGET_TERMS)
def test_the_defaults_of_a_term_forget_more_of_the_forget_set(run: Run, kind: str, optimizer: str) -> None:
    _, loaded = run(spec_of(kind, optimizer))

    assert probability(loaded, FORGET) < 0.9  # 0.997 before
    assert probability(loaded, FORGET) < probability(loaded, RETAIN)


@pytest.mark.parametrize("kind", ["rmu", "pdu", "altpo", "undial", "dpo"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run: Run, kind: str) -> None:
    straight, straight_model = run(spec_of(kind, steps=6), state="straight")

    with pytest.raises(RunInterruptedError):
        run(spec_of(kind, steps=6), state="resumed", listener=Interrupter(3))
    resumed, resumed_model = run(spec_of(kind, steps=6), state="resumed")

    assert resumed.resumed_at_steps == [3]
    assert torch.equal(weights(resumed_model), weights(straight_model))
    assert resumed.curves == straight.curves


def test_rmu_forgets_by_the_few_weights_that_its_paper_trains(run: Run, taught_model_dir: Path) -> None:
    few = {"parameters": {"include": ["model.layers.0.mlp.down_proj.*"]}}

    _, loaded = run({**spec_of("rmu", steps=40, lr=1e-2), **few})

    before = dict(load_model(taught_model_dir, device="cpu").model.named_parameters())
    changed = [name for name, now in loaded.model.named_parameters() if not torch.equal(now, before[name])]
    assert changed == ["model.layers.0.mlp.down_proj.weight"]
    assert probability(loaded, FORGET) < 0.9
    assert probability(loaded, FORGET) < probability(loaded, RETAIN)


def test_alternates_are_sampled_once_and_stored_for_the_resumed_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunInterruptedError):
        run(spec_of("altpo", steps=4), listener=Interrupter(2))
    assert list(tmp_path.rglob("alternates.json"))
    monkeypatch.setattr(alternative_answers, "generate", None)  # would fail if it were called

    resumed, _ = run(spec_of("altpo", steps=4))

    assert resumed.steps == 4


def test_the_retain_weight_of_pdu_grows_while_the_retain_loss_is_over_its_bound(run: Run) -> None:
    over, _ = run(spec_of("pdu", steps=8, slack=0.0, dual_start=1.0, dual_step=1.0))
    under, _ = run(spec_of("pdu", steps=8, slack=50.0, dual_start=1.0, dual_step=1.0), state="under")
    late, _ = run(spec_of("pdu", steps=8, slack=50.0, dual_start=1.0, dual_warmup=99), state="late")

    rising, falling, constant = (result.curves["retain_weight"] for result in (over, under, late))
    assert rising[-1] is not None
    assert rising[-1] > 1.0
    assert falling[1:] == (0.0,) * 7, "never below zero"
    assert constant == (1.0,) * 8


def test_the_bound_limits_the_retain_loss_that_grows_without_it(run: Run) -> None:
    _, bound = run(spec_of("pdu", steps=25))
    _, loose = run(spec_of("pdu", steps=25, slack=100.0, dual_start=0.0), state="loose")

    assert probability(bound, RETAIN) > 0.7
    assert probability(loose, RETAIN) < 0.3

"""Rows that are scored between steps: the report's probability, and a training that ends when enough is forgotten."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import pack
from soul_core.events import SilentListener
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.spec import JobSpec
from soul_core.training.history import TrainingResult
from soul_core.training.micro_batching import MicroBatcher
from soul_core.training.schedule import MAX_FORGET_ROWS, SCORE_EVERY
from soul_core.training.trainer import train
from soul_core.training.watched_rows import ForgetProgress, WatchedRows
from tests.fixtures.capitals import COUNTRIES, rows_of
from tests.fixtures.capitals_training import RecordingListener

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]


@pytest.fixture
def examples(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(FORGET), loaded.encoder, max_tokens=128)


@pytest.fixture
def batcher() -> MicroBatcher:
    return MicroBatcher(2048, SilentListener())


@torch.no_grad()
def score_one_by_one(loaded: LoadedModel, examples: list[Example]) -> list[float]:
    scores_by_example = [score(loaded.model, pack([example])) for example in examples]
    return [-float(scores.logp_P.mean()) for scores in scores_by_example]


def train_until(loaded: LoadedModel, folder: Path, **training: Any) -> tuple[TrainingResult, RecordingListener]:
    listener = RecordingListener()
    spec = {
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"steps": 40, "forget_batch": 3, "retain_batch": 4, **training},
    }
    trained = train(
        loaded,
        JobSpec.model_validate(spec),
        forget=encode_rows(rows_of(FORGET), loaded.encoder, max_tokens=128),
        retain=encode_rows(rows_of(RETAIN, start=4), loaded.encoder, max_tokens=128),
        state_dir=folder,
        listener=listener,
    )
    return trained, listener


@pytest.mark.parametrize("max_tokens", [16, 2048])
def test_the_loss_of_a_row_is_its_mean_over_tokens(
    loaded: LoadedModel, examples: list[Example], max_tokens: int
) -> None:
    rows = WatchedRows(loaded, examples, MicroBatcher(max_tokens, SilentListener()))
    assert rows.compute_nlls() == pytest.approx(score_one_by_one(loaded, examples), rel=1e-4)


def test_a_large_forget_set_is_scored_on_rows_spread_over_it(
    loaded: LoadedModel, examples: list[Example], batcher: MicroBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(WatchedRows, "__init__", lambda self, _, chosen, __: seen.extend(map(id, chosen)))
    monkeypatch.setattr(WatchedRows, "compute_mean_probability", lambda _: 1.0)
    many = [examples[0]] * 40 + [examples[1]] * 40

    ForgetProgress(loaded, many, batcher, stop_at=0.5)

    assert len(seen) <= MAX_FORGET_ROWS
    assert set(seen) == {id(examples[0]), id(examples[1])}


def test_a_training_ends_when_enough_is_forgotten(loaded: LoadedModel, examples: list[Example], tmp_path: Path) -> None:
    before = torch.tensor(score_one_by_one(loaded, examples)).neg().exp().mean()

    trained, listener = train_until(loaded, tmp_path, stop_at=0.3)

    after = torch.tensor(score_one_by_one(loaded, examples)).neg().exp().mean()
    assert after <= 0.3 * before
    assert trained.steps < 40
    assert trained.steps % SCORE_EVERY == 0
    assert len(trained.curves["loss"]) == trained.steps
    assert any("the training ends after" in data["message"] for data in listener.of("log"))


def test_without_a_bound_a_training_takes_all_its_steps(loaded: LoadedModel, tmp_path: Path) -> None:
    trained, _ = train_until(loaded, tmp_path, stop_at=None, steps=12)
    assert trained.steps == 12


def test_a_fine_tuning_has_no_forget_rows_to_end_by(loaded: LoadedModel, tmp_path: Path) -> None:
    trained = train(
        loaded,
        JobSpec.model_validate({"kind": "finetune", "optimizer": {"kind": "adamw"}, "training": {"steps": 4}}),
        forget=(),
        retain=encode_rows(rows_of(RETAIN), loaded.encoder, max_tokens=128),
        state_dir=tmp_path,
        listener=SilentListener(),
        phase="finetune",
    )
    assert trained.steps == 4

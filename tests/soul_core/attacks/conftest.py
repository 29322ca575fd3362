"""A model that knows the facts, one that hides them, one that never learned them; and data sets for attacks."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.attacks.runner import attack_model
from soul_core.data import Row
from soul_core.data.encoding import encode_rows
from soul_core.data.packing import pack
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import Listener, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import score
from soul_core.spec import Evaluation, JobSpec
from soul_core.spec.attacks import Attack
from tests.fixtures.capitals import COUNTRIES, TEACHABLE_RANGE, make_untrained_model, rows_of

EVALUATION = Evaluation(attack_new_tokens=16, bootstrap=50)
FORGET_COUNTRIES, RETAIN_COUNTRIES = list(COUNTRIES)[:5], list(COUNTRIES)[5:]


def make_set(loaded: LoadedModel, name: str, rows: list[Row]) -> EvaluationSet:
    return EvaluationSet(name, tuple(rows), tuple(encode_rows(rows, loaded.encoder, max_tokens=128)))


def make_texts() -> list[Row]:
    return [Row(i, (), f"user assistant The capital of {c} is a city") for i, c in enumerate(RETAIN_COUNTRIES, 1)]


def descend(
    loaded: LoadedModel, rows: list[Row], *, steps: int, lr: float, sign: float = 1.0, until: float = 0.0
) -> None:
    """Train the trainable parameters on rows; sign -1 is gradient ascent. Stops at a mean NLL of `until`."""
    batch = pack(encode_rows(rows, loaded.encoder, max_tokens=128))
    trainable = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0)
    for _ in range(steps):
        nll = -score(loaded.model, batch).logp_P.mean()
        if sign * (nll.item() - until) < 0:
            break
        (sign * nll).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    loaded.model.zero_grad(set_to_none=True)


def hide_answers(loaded: LoadedModel, where: str, *, lr: float, until: float) -> LoadedModel:
    """Return a copy that hides the forget answers; only weights with `where` in their name were trained."""
    hiding = copy_model(loaded)
    for name, parameter in hiding.model.named_parameters():
        parameter.requires_grad_(where in name)
    descend(hiding, rows_of(FORGET_COUNTRIES), steps=200, lr=lr, sign=-1.0, until=until)
    hiding.model.requires_grad_(True)
    return hiding


def copy_model(loaded: LoadedModel) -> LoadedModel:
    """Return a copy that a test may change."""
    return replace(loaded, model=copy.deepcopy(loaded.model))


@pytest.fixture(scope="session")
def all_knowing(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


@pytest.fixture(scope="session")
def all_hiding(all_knowing: LoadedModel) -> LoadedModel:
    return hide_answers(all_knowing, "post_attention_layernorm", lr=3e-3, until=2.0)


@pytest.fixture(scope="session")
def all_retrained(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_untrained_model(tmp_path_factory.mktemp("retrained"), initializer_range=TEACHABLE_RANGE)
    loaded = load_model(folder, device="cpu")
    descend(loaded, rows_of(RETAIN_COUNTRIES), steps=500, lr=5e-3, until=0.01)
    return loaded


@pytest.fixture
def knowing(all_knowing: LoadedModel) -> LoadedModel:
    """The base model: it knows all facts."""
    return copy_model(all_knowing)


@pytest.fixture
def hiding(all_hiding: LoadedModel) -> LoadedModel:
    """The base model with trained norms before its MLPs only, so that it no longer gives the forget answers."""
    return copy_model(all_hiding)


@pytest.fixture
def retrained_model(all_retrained: LoadedModel) -> LoadedModel:
    """A model from the same start, trained on the retain rows only: it never saw the forget rows."""
    return copy_model(all_retrained)


def make_sets(loaded: LoadedModel, **rows: list[Row]) -> list[EvaluationSet]:
    rows_by_set = {
        "forget": rows_of(FORGET_COUNTRIES),
        "retain": rows_of(RETAIN_COUNTRIES),
        "general": make_texts(),
    } | rows
    return [make_set(loaded, name, of_set) for name, of_set in rows_by_set.items() if of_set]


def attack(
    loaded: LoadedModel,
    settings: Attack,
    results_dir: Path,
    *,
    name: str = "base",
    sets: list[EvaluationSet] | None = None,
    listener: Listener | None = None,
    evaluation: Evaluation = EVALUATION,
) -> AttackOutcome:
    """Run one attack on one model."""
    spec = JobSpec(attacks=(settings,), evaluation=evaluation)
    outcomes = attack_model(
        loaded,
        name,
        make_sets(loaded) if sets is None else sets,
        spec,
        listener=listener or SilentListener(),
        results_dir=results_dir,
    )
    return next(iter(outcomes.values()))


def value(outcome: AttackOutcome, metric: str = "probability", name: str = "forget") -> float:
    result = outcome.attacked[name][metric].value
    assert result is not None
    return result


def state_bytes(loaded: LoadedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in loaded.model.state_dict().items()}


class Recorder(SilentListener):
    """Records events; requests a stop after `after` checks."""

    def __init__(self, wanted: StopRequest = StopRequest.NONE, *, after: int = 0) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.wanted, self.after, self.num_checks = wanted, after, 0

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_request(self) -> StopRequest:
        self.num_checks += 1
        return self.wanted if self.num_checks > self.after else StopRequest.NONE

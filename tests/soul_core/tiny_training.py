"""Trainings of the taught tiny model: three capitals to forget, seven to keep."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from soul_core.encoding import Example, encode_rows
from soul_core.examples import pack
from soul_core.listener import EventKind, Quiet, Wish
from soul_core.models.loading import Loaded, load_model
from soul_core.models.scoring import score
from soul_core.spec import JobSpec
from soul_core.training.accumulation import MicroBatcher
from soul_core.training.record import Trained
from soul_core.training.trainer import train
from tests.soul_core.tiny_model import COUNTRIES, rows_of

NAMES = list(COUNTRIES)


@dataclass
class Heard:
    """Hears everything, and wishes something behind a number of metrics."""

    wish_behind: int | None = None
    wanted: Wish = Wish.INTERRUPT
    events: list[tuple[EventKind, dict[str, Any]]] = field(default_factory=list)

    def emit(self, kind: EventKind, **data: Any) -> None:
        self.events.append((kind, data))

    def wish(self) -> Wish:
        return (
            self.wanted if self.wish_behind is not None and len(self.of("metrics")) >= self.wish_behind else Wish.NONE
        )

    def of(self, kind: EventKind) -> list[dict[str, Any]]:
        return [data for each, data in self.events if each == kind]


def examples_of(loaded: Loaded) -> tuple[list[Example], list[Example]]:
    forget, retain = (
        encode_rows(rows_of(names, start=start), loaded.encoder, max_tokens=128)
        for names, start in ((NAMES[:3], 1), (NAMES[3:], 4))
    )
    return forget, retain


def train_tiny(folder: Path, state: Path, spec: dict[str, Any], ear: Heard | None = None) -> tuple[Trained, Loaded]:
    """Train a fresh copy of the model; a fine-tuning learns the seven."""
    torch.set_num_threads(1)
    full = JobSpec.model_validate(spec)
    loaded = load_model(folder, device="cpu", dtype=full.dtype)
    forget, retain = examples_of(loaded)
    trained = train(
        loaded,
        full,
        forget=forget if full.kind == "unlearn" else (),
        retain=retain,
        state_dir=state,
        listener=ear or Heard(),
        phase="unlearn" if full.kind == "unlearn" else "finetune",
    )
    return trained, loaded


def weights(loaded: Loaded) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


@torch.no_grad()
def probability(loaded: Loaded, examples: list[Example]) -> float:
    """Return the geometric mean probability of the answers' tokens."""
    logp_P = score(loaded.model, pack(examples)).logp_P
    return math.exp(float(logp_P.mean()))


def batcher() -> MicroBatcher:
    return MicroBatcher(2048, Quiet())

"""One training from the base, with the settings as they stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.data.encoding import Example
from soul_core.events import Listener
from soul_core.pipeline.model_under_test import Subject
from soul_core.pipeline.state import RunState
from soul_core.report import TrialResult
from soul_core.spec import JobSpec
from soul_core.training.history import Trained
from soul_core.training.schedule import num_steps
from soul_core.training.trainer import Watch, train


@dataclass(frozen=True)
class Outcome:
    """What a strategy leaves behind, beside the weights in the model."""

    trained: Trained
    trials: tuple[TrialResult, ...] = ()


def single(subject: Subject, spec: JobSpec, state: RunState) -> Outcome:
    """Train once."""
    return Outcome(train_subject(subject, spec, state.folder, state))


def train_subject(
    subject: Subject,
    spec: JobSpec,
    folder: Path,
    listener: Listener,
    *,
    watch: Watch | None = None,
) -> Trained:
    """Train the model on the sets of its kind of job. `watch` is asked after each step whether that is enough."""
    assert spec.kind != "evaluate"
    forget, retain = _learned(subject, spec)
    return train(
        subject.loaded,
        spec,
        forget=forget,
        retain=retain,
        state_dir=folder,
        listener=listener,
        phase=spec.kind,
        watch=watch,
    )


def steps_of(subject: Subject, spec: JobSpec) -> int:
    """Return how many steps a training on the model's sets has."""
    forget, retain = _learned(subject, spec)
    return num_steps(spec.training, forget=len(forget), retain=len(retain))


def _learned(subject: Subject, spec: JobSpec) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return what is unlearned, nothing in a fine-tuning, and what is kept or learned."""
    kept = subject.sets.get(spec.learned_set)
    forget = [each for one in subject.forget_sets(spec) for each in one.examples]
    return forget, kept.examples if kept else ()

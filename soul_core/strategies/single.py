"""One training from the base, with the settings as they stand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soul_core.listener import Listener
from soul_core.report import TrialResult
from soul_core.run_state import RunState
from soul_core.schedule import num_steps
from soul_core.spec import RETAIN, TRAIN, JobSpec
from soul_core.subject import Subject
from soul_core.trainer import train
from soul_core.training_record import Trained


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
    watch: Callable[[int], bool] | None = None,
) -> Trained:
    """Train the model on the sets of its kind of job. `watch` is asked after each step whether that is enough."""
    assert spec.kind != "evaluate"
    unlearning = spec.kind == "unlearn"
    kept = subject.sets.get(RETAIN if unlearning else TRAIN)
    return train(
        subject.loaded,
        spec,
        forget=[each for one in subject.forget_sets(spec) for each in one.examples] if unlearning else (),
        retain=kept.examples if kept else (),
        state_dir=folder,
        listener=listener,
        phase=spec.kind,
        watch=watch,
    )


def steps_of(subject: Subject, spec: JobSpec) -> int:
    """Return how many steps a training on the model's sets has."""
    kept = subject.sets.get(RETAIN if spec.kind == "unlearn" else TRAIN)
    forget = sum(len(one.examples) for one in subject.forget_sets(spec)) if spec.kind == "unlearn" else 0
    return num_steps(spec.training, forget=forget, retain=len(kept.examples) if kept else 0)

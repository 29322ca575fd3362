"""The retain set of a run that needs one and was given none: the base model makes it, before conflicts are resolved."""

from dataclasses import dataclass

from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.events import SilentListener
from soul_core.generated_retain import make_retain_set
from soul_core.models.loading import LoadedModel
from soul_core.models.source import ModelSource
from soul_core.pipeline.data_sets import prepare_datasets
from soul_core.pipeline.model_under_test import load_source
from soul_core.pipeline.state import RunState
from soul_core.report import GeneratedRetainFacts
from soul_core.spec import RETAIN, JobSpec


@dataclass
class CompletedSets:
    """The data sets of a run, with a retain set that the base model made if it needed one."""

    resolution: ConflictResolution
    facts: GeneratedRetainFacts | None = None
    """How the retain set was made; None if it was given, or is not needed."""
    _model: LoadedModel | None = None

    def take_model(self) -> LoadedModel | None:
        """Return the base model if it was loaded for this, and forget it: the caller decides how long it lives."""
        model, self._model = self._model, None
        return model


def make_missing_retain_set(
    resolution: ConflictResolution, spec: JobSpec, source: ModelSource, state: RunState
) -> CompletedSets:
    """Return the data sets with the retain set that the base model makes, if the run needs one and has none.

    Raises:
        BadModel: The model cannot be loaded.
        BadData: It wrote no usable row.
    """
    if not spec.makes_retain_set(resolution.rows):
        return CompletedSets(resolution)
    loaded = load_source(source, spec, template_date=state.started_at.date())
    made = make_retain_set(loaded, resolution.rows, spec, folder=state.folder, listener=state)
    given = {name: rows for name, rows in resolution.rows.items() if name not in resolution.origins}
    # silent: its rows have no conflicts, and those of the other sets were reported
    resolution = prepare_datasets({**given, RETAIN: made.rows}, spec, SilentListener())
    description = f"{len(made.rows)} rows that the base model wrote, drawn by the seed"
    return CompletedSets(resolution.set_origin(RETAIN, "sampled", description), made.facts, loaded)

"""One model as a run sees it: loaded, its data sets as its own tokens, and what is measured of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from soul_core.attacks.context import AttackOutcome
from soul_core.attacks.runner import attack_model
from soul_core.attacks.snapshot import compute_fingerprint
from soul_core.data import Row
from soul_core.data.datasets import EncodedDataset, encode_datasets
from soul_core.data.encoding import ChatSettings, Example, encode_rows
from soul_core.data.encoding_check import check_against_transformers
from soul_core.errors import BadData
from soul_core.evaluation.evaluate import Measured, measure
from soul_core.evaluation.probes import make_probe_sets
from soul_core.evaluation.row_digests import DigestKey, add_row_digests
from soul_core.evaluation.row_selection import Answers, EvaluationSet, choose_rows
from soul_core.events import Phase
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.source import ModelSource
from soul_core.outputs.dtypes import FLOAT32, ExportDtypes, choose_export_dtypes
from soul_core.pipeline.state import RunState
from soul_core.report import ModelFacts, ModelMeasurements
from soul_core.spec import FORGET, JobSpec


@dataclass(frozen=True)
class ModelUnderTest:
    """A model in memory with the run's data sets in its own tokens. `max_tokens` is the longest example it may see."""

    loaded: LoadedModel
    facts: ModelFacts
    datasets: Mapping[str, EncodedDataset]
    evaluation_sets: tuple[EvaluationSet, ...]
    max_tokens: int
    digest_key: DigestKey
    """What digests of rows are made under."""
    export_dtypes: ExportDtypes = FLOAT32
    """What its weights are rounded to before they are measured and written, once they were trained."""

    def list_forget_sets(self, spec: JobSpec) -> tuple[EncodedDataset, ...]:
        """Return what is unlearned."""
        return tuple(one for name, one in self.datasets.items() if spec.unlearns(name))

    @property
    def full_sets(self) -> tuple[EvaluationSet, ...]:
        """All rows of all sets: what attacks choose from."""
        return tuple(EvaluationSet(one.name, one.rows, one.examples) for one in self.datasets.values())


@dataclass(frozen=True)
class Examined:
    """What was measured of one model, and what attacks brought out of it."""

    measurements: ModelMeasurements
    answers: Answers
    attacked: Mapping[str, AttackOutcome]
    preambles: Answers = field(default_factory=dict)

    def written(self) -> Answers:
        """Return all that the model wrote for each row, what came before its answer included."""
        return {
            name: {
                row: "\n".join(filter(None, (self.preambles.get(name, {}).get(row), answer)))
                for row, answer in answers.items()
            }
            for name, answers in self.answers.items()
        }


def load_model_under_test(
    source: ModelSource,
    rows: Mapping[str, tuple[Row, ...]],
    spec: JobSpec,
    *,
    key: DigestKey,
    template_date: date,
    is_trained: bool = False,
) -> ModelUnderTest:
    """Load a model and encode every data set with its tokenizer. Raises BadModel or BadData, and of the model that is
    to be trained and exported (`is_trained`) BadSpec where it does not fit its export dtype.

    `template_date` is the day on which a chat template renders that asks for one, unless the spec names it.
    """
    loaded = load_model(
        source.location,
        revision=source.revision,
        device=spec.device,
        dtype=spec.dtype,
        cache_dir=source.cache_dir,
        digest=source.digest,
        display_name=source.display_name,
        chat=ChatSettings(spec.chat_template_kwargs, spec.template_date or template_date),
        chat_template=spec.chat_template,
    )
    for of_set in rows.values():
        check_against_transformers(loaded.encoder, of_set)
    max_tokens = min(spec.training.max_tokens, loaded.facts.context_tokens)
    sets = encode_datasets(rows, loaded.encoder, max_tokens=max_tokens)
    chosen = tuple(
        choose_rows(one.name, one.rows, one.examples, max_rows=spec.evaluation.max_examples, seed=spec.seed)
        for one in sets.values()
    )
    asked = next((one.rows for one in chosen if one.name == FORGET), ())
    probes = _probes(asked, loaded, spec, max_tokens=max_tokens)
    facts = loaded.facts.model_copy(update={"source": source.display_name})
    dtypes = _dtypes(loaded, spec) if is_trained else FLOAT32
    return ModelUnderTest(loaded, facts, sets, chosen + probes, max_tokens, key, dtypes)


def _dtypes(loaded: LoadedModel, spec: JobSpec) -> ExportDtypes:
    """Return what is written of the trained model. Adapters are written as they are, beside an untouched base."""
    return FLOAT32 if spec.writes_adapter else choose_export_dtypes(loaded, spec.export.dtype)


def _probes(forget: Sequence[Row], loaded: LoadedModel, spec: JobSpec, *, max_tokens: int) -> tuple[EvaluationSet, ...]:
    """Return the probe sets of the forget rows that are measured. A probe too long for the model is left out: it is not
    the user's row.
    """
    found = []
    for name, probes in make_probe_sets(forget, spec.evaluation.probes).items():
        fitting = [(row, example) for row in probes for example in _encoded(row, loaded, max_tokens)]
        if fitting:
            made, examples = zip(*fitting, strict=True)
            found.append(choose_rows(name, made, examples, max_rows=spec.evaluation.max_examples, seed=spec.seed))
    return tuple(found)


def _encoded(row: Row, loaded: LoadedModel, max_tokens: int) -> list[Example]:
    try:
        return encode_rows([row], loaded.encoder, max_tokens=max_tokens)
    except BadData:
        return []


def evaluate_model(
    model_under_test: ModelUnderTest, model_name: str, spec: JobSpec, state: RunState, *, phase: Phase
) -> Examined:
    """Measure the model as it stands now, then attack it; what an interrupted run has done is read from the state.

    The time of the attacks counts as phase `attack`, that of the rest as `phase`.
    """
    mark = f"{model_name}-{compute_weights_digest(model_under_test.loaded)}"
    with state.phase(phase, detail=model_name):
        measured: Measured = measure(
            model_under_test.loaded,
            model_under_test.evaluation_sets,
            spec.evaluation,
            seed=spec.seed,
            micro_batch_tokens=spec.training.micro_batch_tokens,
            phase=phase,
            listener=state,
            results_dir=state.folder / "measured" / mark,
        )
    attacked: Mapping[str, AttackOutcome] = {}
    if spec.attacks:
        with state.phase("attack", detail=model_name):
            kept = state.folder / "attacked" / mark
            attacked = attack_model(
                model_under_test.loaded, model_name, model_under_test.full_sets, spec, listener=state, results_dir=kept
            )
    measurements = add_row_digests(
        measured.measurements(), model_under_test.evaluation_sets, model_under_test.digest_key
    )
    return Examined(measurements, measured.answers(), attacked, measured.preambles())


def compute_weights_digest(loaded: LoadedModel) -> str:
    """Return a mark that weights trained again to other bits (a GPU) do not share: measurements are kept under it."""
    return hashlib.sha256(str(compute_fingerprint(loaded.model)).encode()).hexdigest()[:16]

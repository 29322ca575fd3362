"""One model as a run sees it: loaded, its data sets as its own tokens, and what is measured of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from soul_core.attacks.context import Attacked
from soul_core.attacks.runner import attack_model
from soul_core.attacks.snapshot import fingerprint
from soul_core.data import Row
from soul_core.data.datasets import DataSet, encode_sets
from soul_core.data.encoding import ChatSettings, Example, encode_rows
from soul_core.errors import BadData
from soul_core.evaluation.evaluate import Measured, measure
from soul_core.evaluation.probes import probe_sets
from soul_core.evaluation.row_digests import DigestKey, keyed
from soul_core.evaluation.row_selection import Answers, EvaluationSet, choose
from soul_core.events import Phase
from soul_core.models.loading import Loaded, load_model
from soul_core.models.source import Source
from soul_core.outputs.dtypes import FLOAT32, ExportDtypes, export_dtypes
from soul_core.pipeline.state import RunState
from soul_core.report import ModelFacts, ModelMeasurements
from soul_core.spec import FORGET, JobSpec


@dataclass(frozen=True)
class Subject:
    """A model in memory with the run's data sets in its own tokens. `max_tokens` is the longest example it may see."""

    loaded: Loaded
    facts: ModelFacts
    sets: Mapping[str, DataSet]
    chosen: tuple[EvaluationSet, ...]
    max_tokens: int
    key: DigestKey
    """What digests of rows are made under."""
    dtypes: ExportDtypes = FLOAT32
    """What its weights are rounded to before they are measured and written, once they were trained."""

    def forget_sets(self, spec: JobSpec) -> tuple[DataSet, ...]:
        """Return what is unlearned."""
        return tuple(one for name, one in self.sets.items() if spec.unlearns(name))

    @property
    def whole(self) -> tuple[EvaluationSet, ...]:
        """All rows of all sets: what attacks choose from."""
        return tuple(EvaluationSet(one.name, one.rows, one.examples) for one in self.sets.values())


@dataclass(frozen=True)
class Examined:
    """What was measured of one model, and what attacks brought out of it."""

    measurements: ModelMeasurements
    answers: Answers
    attacked: Mapping[str, Attacked]
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


def load_subject(
    source: Source,
    rows: Mapping[str, tuple[Row, ...]],
    spec: JobSpec,
    *,
    key: DigestKey,
    template_date: date,
    is_trained: bool = False,
) -> Subject:
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
        shown=source.shown,
        chat=ChatSettings(spec.chat_template_kwargs, spec.template_date or template_date),
        chat_template=spec.chat_template,
    )
    for of_set in rows.values():
        loaded.encoder.check(of_set)
    max_tokens = min(spec.training.max_tokens, loaded.facts.context_tokens)
    sets = encode_sets(rows, loaded.encoder, max_tokens=max_tokens)
    chosen = tuple(
        choose(one.name, one.rows, one.examples, most=spec.evaluation.max_examples, seed=spec.seed)
        for one in sets.values()
    )
    asked = next((one.rows for one in chosen if one.name == FORGET), ())
    probes = _probes(asked, loaded, spec, max_tokens=max_tokens)
    facts = loaded.facts.model_copy(update={"source": source.shown})
    dtypes = _dtypes(loaded, spec) if is_trained else FLOAT32
    return Subject(loaded, facts, sets, chosen + probes, max_tokens, key, dtypes)


def _dtypes(loaded: Loaded, spec: JobSpec) -> ExportDtypes:
    """Return what is written of the trained model. Adapters are written as they are, beside an untouched base."""
    alone = spec.lora is not None and spec.lora.output == "adapter"
    return FLOAT32 if alone else export_dtypes(loaded, spec.export.dtype)


def _probes(forget: Sequence[Row], loaded: Loaded, spec: JobSpec, *, max_tokens: int) -> tuple[EvaluationSet, ...]:
    """Return the probe sets of the forget rows that are measured. A probe too long for the model is left out: it is not
    the user's row.
    """
    found = []
    for name, probes in probe_sets(forget, spec.evaluation.probes).items():
        fitting = [(row, example) for row in probes for example in _encoded(row, loaded, max_tokens)]
        if fitting:
            made, examples = zip(*fitting, strict=True)
            found.append(choose(name, made, examples, most=spec.evaluation.max_examples, seed=spec.seed))
    return tuple(found)


def _encoded(row: Row, loaded: Loaded, max_tokens: int) -> list[Example]:
    try:
        return encode_rows([row], loaded.encoder, max_tokens=max_tokens)
    except BadData:
        return []


def examine(subject: Subject, name: str, spec: JobSpec, state: RunState, *, phase: Phase) -> Examined:
    """Measure the model as it stands now, then attack it; what an interrupted run has done is read from the state.

    The time of the attacks counts as phase `attack`, that of the rest as `phase`.
    """
    mark = f"{name}-{weights_mark(subject.loaded)}"
    with state.phase(phase, detail=name):
        measured: Measured = measure(
            subject.loaded,
            subject.chosen,
            spec.evaluation,
            seed=spec.seed,
            micro_batch_tokens=spec.training.micro_batch_tokens,
            phase=phase,
            listener=state,
            kept=state.folder / "measured" / mark,
        )
    attacked: Mapping[str, Attacked] = {}
    if spec.attacks:
        with state.phase("attack", detail=name):
            kept = state.folder / "attacked" / mark
            attacked = attack_model(subject.loaded, name, subject.whole, spec, listener=state, kept=kept)
    measurements = keyed(measured.measurements(), subject.chosen, subject.key)
    return Examined(measurements, measured.answers(), attacked, measured.preambles())


def weights_mark(loaded: Loaded) -> str:
    """Return a mark that weights trained again to other bits (a GPU) do not share: measurements are kept under it."""
    return hashlib.sha256(str(fingerprint(loaded.model)).encode()).hexdigest()[:16]

"""One model in a run: loaded, its data sets encoded by its tokenizer, and its evaluation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from soul_core.attacks.runner import attack_model
from soul_core.attacks.snapshot import compute_fingerprint
from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.data import Row
from soul_core.data.datasets import EncodedDataset, encode_datasets
from soul_core.data.encoding import ChatSettings, Example, encode_rows
from soul_core.data.encoding_check import check_against_transformers
from soul_core.errors import BadData
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.probes import make_probe_sets
from soul_core.evaluation.row_digests import DigestKey, add_row_digests
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import Phase
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.source import ModelSource
from soul_core.outputs.dtypes import FLOAT32, ExportDtypes, choose_export_dtypes
from soul_core.pipeline.state import RunState
from soul_core.report import ModelFacts
from soul_core.spec import FORGET, RETAIN_HELD_OUT, JobSpec


@dataclass(frozen=True)
class ModelUnderTest:
    """A model in memory with the run's data sets encoded by its tokenizer."""

    loaded: LoadedModel
    facts: ModelFacts
    datasets: dict[str, EncodedDataset]
    evaluation_sets: tuple[EvaluationSet, ...]
    """The rows that are measured, probes included."""
    max_tokens: int
    """Length of the longest example that it accepts."""
    digest_key: DigestKey
    """The key of row digests."""
    export_dtypes: ExportDtypes = FLOAT32
    """The types to which trained weights are rounded before they are measured and written."""

    def list_forget_sets(self, spec: JobSpec) -> tuple[EncodedDataset, ...]:
        """Return the data sets that are unlearned."""
        return tuple(dataset for name, dataset in self.datasets.items() if spec.unlearns(name))

    @property
    def held_out_examples(self) -> tuple[Example, ...]:
        """The retain rows that no training of the run reads; none if there are none."""
        dataset = self.datasets.get(RETAIN_HELD_OUT)
        return dataset.examples if dataset else ()

    @property
    def full_sets(self) -> tuple[EvaluationSet, ...]:
        """All rows of all sets, from which attacks select."""
        return tuple(EvaluationSet(dataset.name, dataset.rows, dataset.examples) for dataset in self.datasets.values())


def load_source(source: ModelSource, spec: JobSpec, *, template_date: date) -> LoadedModel:
    """Load a model with the settings of the spec. Raises BadModel."""
    return load_model(
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


def load_model_under_test(
    source: ModelSource,
    resolution: ConflictResolution,
    spec: JobSpec,
    *,
    key: DigestKey,
    template_date: date,
    is_trained: bool = False,
    loaded: LoadedModel | None = None,
) -> ModelUnderTest:
    """Load a model and encode every data set with its tokenizer.

    Args:
        resolution: The data sets; texts that the run made are cut to the model's context.
        template_date: The date with which a chat template renders that needs one, unless the spec names it.
        is_trained: Whether the model is trained and exported, so that its export dtype must fit.
        loaded: The model, if it is in memory already.

    Raises:
        BadModel, BadData: The model or a row cannot be used.
        BadSpec: The model does not fit its export dtype.
    """
    loaded = loaded or load_source(source, spec, template_date=template_date)
    max_tokens = min(spec.training.max_tokens, loaded.facts.context_tokens)
    rows = {
        name: cut_texts(of_set, loaded, max_tokens) if name in resolution.made_texts else of_set
        for name, of_set in resolution.rows.items()
    }
    rows = {name: of_set for name, of_set in rows.items() if of_set}
    for of_set in rows.values():
        check_against_transformers(loaded.encoder, of_set)
    datasets = encode_datasets(rows, loaded.encoder, max_tokens=max_tokens)
    selections = {
        name: _select_measured_rows(dataset, spec, resolution.get_given_numbers(name))
        for name, dataset in datasets.items()
    }
    forget_rows = selections[FORGET].rows if FORGET in selections else ()
    return ModelUnderTest(
        loaded=loaded,
        facts=loaded.facts.model_copy(update={"source": source.display_name}),
        datasets=datasets,
        evaluation_sets=(*selections.values(), *_make_probes(forget_rows, loaded, spec, max_tokens=max_tokens)),
        max_tokens=max_tokens,
        digest_key=key,
        # adapters are written unrounded, and their base is not written
        export_dtypes=choose_export_dtypes(loaded, spec.export.dtype)
        if is_trained and not spec.writes_adapter
        else FLOAT32,
    )


def add_dataset(model_under_test: ModelUnderTest, name: str, rows: tuple[Row, ...], spec: JobSpec) -> ModelUnderTest:
    """Return the model with another set of texts that the run made, cut to its context."""
    loaded, max_tokens = model_under_test.loaded, model_under_test.max_tokens
    rows = cut_texts(rows, loaded, max_tokens)
    dataset = encode_datasets({name: rows}, loaded.encoder, max_tokens=max_tokens)[name]
    return replace(
        model_under_test,
        datasets={**model_under_test.datasets, name: dataset},
        evaluation_sets=(*model_under_test.evaluation_sets, _select_measured_rows(dataset, spec)),
    )


def cut_texts(rows: Sequence[Row], loaded: LoadedModel, max_tokens: int) -> tuple[Row, ...]:
    """Return rows of plain text, the last quarter of a text's words cut off until it has at most `max_tokens` tokens.

    A text of which nothing is left is left out.
    """
    cut_rows = []
    for row in rows:
        words = row.completion.split(" ")
        while words and not _encode_if_short(replace(row, completion=" ".join(words)), loaded, max_tokens):
            words = words[: len(words) * 3 // 4]
        if words:
            cut_rows.append(replace(row, completion=" ".join(words)))
    return tuple(cut_rows)


def _select_measured_rows(
    dataset: EncodedDataset, spec: JobSpec, given_numbers: Sequence[int] | None = None
) -> EvaluationSet:
    return choose_rows(
        dataset.name,
        dataset.rows,
        dataset.examples,
        max_rows=spec.evaluation.max_examples,
        seed=spec.seed,
        given_numbers=given_numbers,
    )


def _make_probes(
    forget_rows: Sequence[Row], loaded: LoadedModel, spec: JobSpec, *, max_tokens: int
) -> tuple[EvaluationSet, ...]:
    """Return the probe sets of the measured forget rows. A probe that is too long is left out: the user did not write
    it.
    """
    probe_sets = []
    for name, probes in make_probe_sets(forget_rows, spec.evaluation.probes).items():
        encoded = [(row, example) for row in probes for example in _encode_if_short(row, loaded, max_tokens)]
        if encoded:
            rows, examples = zip(*encoded, strict=True)
            probe_sets.append(choose_rows(name, rows, examples, max_rows=spec.evaluation.max_examples, seed=spec.seed))
    return tuple(probe_sets)


def _encode_if_short(row: Row, loaded: LoadedModel, max_tokens: int) -> list[Example]:
    try:
        return encode_rows([row], loaded.encoder, max_tokens=max_tokens)
    except BadData:
        return []


def evaluate_model(
    model_under_test: ModelUnderTest, model_name: str, spec: JobSpec, state: RunState, *, phase: Phase
) -> ModelEvaluation:
    """Measure the model as it is now, then attack it. Results of an interrupted run are read from the state folder.

    The time of the attacks counts as phase `attack`, that of the rest as `phase`.
    """
    loaded = model_under_test.loaded
    folder = f"{model_name}-{compute_weights_digest(loaded)}"
    with state.phase(phase, detail=model_name):
        evaluation = measure(
            loaded,
            model_under_test.evaluation_sets,
            spec.evaluation,
            seed=spec.seed,
            micro_batch_tokens=spec.training.micro_batch_tokens,
            phase=phase,
            listener=state,
            results_dir=state.folder / "evaluations" / folder,
        )
    changes: dict[str, Any] = {
        "measurements": add_row_digests(
            evaluation.measurements, model_under_test.evaluation_sets, model_under_test.digest_key
        )
    }
    if spec.attacks:
        with state.phase("attack", detail=model_name):
            changes["attacks"] = attack_model(
                loaded,
                model_name,
                model_under_test.full_sets,
                spec,
                listener=state,
                results_dir=state.folder / "attacks" / folder,
            )
    return evaluation.model_copy(update=changes)


def compute_weights_digest(loaded: LoadedModel) -> str:
    """Return a digest of the weights, by which saved results are found: a GPU may train again to other bits."""
    return hashlib.sha256(str(compute_fingerprint(loaded.model)).encode()).hexdigest()[:16]

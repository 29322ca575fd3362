"""Checks of a run that need the loaded model: all that can fail later is refused before training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soul_core.chat.template import find_variables, format_unread_variable
from soul_core.errors import BadData, BadSpec
from soul_core.events import Listener
from soul_core.formatting import format_row_numbers
from soul_core.outputs.checks import check_disk_space
from soul_core.outputs.gguf_file import check_gguf
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.strategies.criteria_check import check_search_criteria
from soul_core.spec import JobKind, JobSpec
from soul_core.spec.export import compute_gguf_bytes
from soul_core.training.term_examples import check_terms
from soul_core.training.trainable import check_trainable_parameters


def check_run(spec: JobSpec, model: ModelUnderTest, out: Path, listener: Listener) -> None:
    """Raise BadSpec, BadData or DiskFull for a run that could not finish with this model; emit warnings."""
    if model.facts.batches == "padded":
        listener.emit("log", message=f"{model.facts.architecture} cannot use packed batches: rows are padded")
    _check_template_variables(spec, model)
    _warn_of_system_turns(model, listener)
    if spec.kind == JobKind.EVALUATE:
        return
    if spec.export.gguf != "none":
        check_gguf(model.loaded.model, model.loaded.tokenizer)
    num_bytes = model.export_dtypes.count_bytes(model.loaded.model)
    num_bytes += compute_gguf_bytes(spec.export, model.facts.num_parameters)
    check_disk_space(out, spec, model.facts.num_parameters, listener, result_bytes=num_bytes)
    for place, recipe in spec.get_recipes().items():
        with _prefix_errors(place):
            _check_recipe(recipe, model)
    check_search_criteria(model, spec)


def _check_template_variables(spec: JobSpec, model: ModelUnderTest) -> None:
    template = model.loaded.encoder.template
    known = find_variables(template.source, template.special_tokens) if template is not None else ()
    if unread := [name for name in spec.chat_template_kwargs if name not in known]:
        raise BadSpec(f"chat_template_kwargs: {format_unread_variable(unread[0], known)}")


def _warn_of_system_turns(model: ModelUnderTest, listener: Listener) -> None:
    """Warn of system turns that the chat template moves or leaves out."""
    encoder = model.loaded.encoder
    for name, dataset in model.datasets.items():
        moved = [row.number for row in dataset.rows if encoder.moves_system_turn(row)]
        if moved:
            listener.emit(
                "warning",
                message=f"{name} set: the model's chat template has no system turn; in {len(moved)} rows its text "
                f"begins the user's turn instead: {format_row_numbers(moved)}",
            )
        hidden = [row.number for row in dataset.rows if encoder.hides_system_turn(row)]
        if hidden:
            listener.emit(
                "warning",
                message=f"{name} set: the model's chat template leaves the system turn out, and the model never sees "
                f"it, in {len(hidden)} rows: {format_row_numbers(hidden)}",
            )


def _check_recipe(spec: JobSpec, model: ModelUnderTest) -> None:
    check_trainable_parameters(model.loaded, spec)
    for forget_set in model.list_forget_sets(spec):
        check_terms(
            forget_set.rows,
            forget_set.examples,
            spec,
            model.loaded,
            max_tokens=model.max_tokens,
            name=forget_set.name,
        )


@contextmanager
def _prefix_errors(place: str) -> Iterator[None]:
    """Begin an error's message with the place of the recipe in the spec; the spec itself has none."""
    try:
        yield
    except (BadSpec, BadData) as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error.message}", details=error.details) from error

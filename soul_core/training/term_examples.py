"""Makes the examples that terms read in addition to the data sets, and checks that the data sets allow it."""

from collections.abc import Sequence
from pathlib import Path

from soul_core.data import Row
from soul_core.data.encoding import Example
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.models.loading import LoadedModel
from soul_core.objectives import find_steered_layer, get_terms
from soul_core.objectives.terms import ExampleContext, ExampleGroup
from soul_core.spec import JobSpec
from soul_core.training.latent import find_perturbed_layers


def make_term_examples(
    loaded: LoadedModel,
    spec: JobSpec,
    forget: Sequence[Example],
    retain: Sequence[Example],
    folder: Path,
    listener: Listener,
    *,
    guard: Sequence[Example] = (),
) -> dict[ExampleGroup, Sequence[Example]]:
    """Return the examples of every group that the job's terms read, each group in the order of its data set.

    The model must still be the base model. What takes time to make is stored in `folder` for a resumed run.
    """
    groups: dict[ExampleGroup, Sequence[Example]] = {"forget": forget, "retain": retain, "guard": guard}
    if not forget:
        return groups
    context = ExampleContext(loaded, spec.seed, min(spec.training.max_tokens, loaded.facts.context_tokens))
    for term, term_spec in get_terms(spec).values():
        for group, make_examples in term.make_examples.items():
            groups[group] = make_examples(forget, term_spec, context, folder=folder, listener=listener)
    return groups


def check_terms(
    rows: Sequence[Row],
    forget: Sequence[Example],
    spec: JobSpec,
    loaded: LoadedModel,
    *,
    max_tokens: int,
    name: str = "forget",
) -> None:
    """Check that the job's terms can use the model and every row of the forget set `name`.

    Raises:
        BadData: The details name every row that a term cannot use.
        BadSpec: The model does not have the layer that a term reads.
    """
    find_steered_layer(loaded.model, spec)
    if spec.latent:
        find_perturbed_layers(loaded.model, spec.latent)
    context = ExampleContext(loaded, spec.seed, max_tokens)
    for part, (term, term_spec) in get_terms(spec).items():
        problems: list[str] = []
        if term.make_examples:
            problems += [f"row {row.number}: plain text has no prompt to answer" for row in rows if not row.messages]
        if term.check:
            problems += term.check(forget, term_spec, context)
        if problems:
            alternative = "leave it out" if part == "after" else "take 'npo'"
            raise BadData(
                f"{name} set: {len(problems)} of {len(rows)} rows cannot be used with {part}.kind '{term_spec.kind}'; "
                f"give prompts and answers, short refusals or a short instruction, or {alternative}",
                details=tuple(problems),
            )

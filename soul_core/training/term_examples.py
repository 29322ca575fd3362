"""The examples that terms read beside the data sets' own, made before training; and which data can be used for them."""

from collections.abc import Sequence
from pathlib import Path

from soul_core.data import Row
from soul_core.data.encoding import Example, format_too_long
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.models.layers import find_steered_layer
from soul_core.models.loading import LoadedModel
from soul_core.objectives import get_terms
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec import JobSpec
from soul_core.spec.terms import AltPo, Dpo, Refusal
from soul_core.training.alternative_answers import make_alternate_examples, make_alternate_prompt
from soul_core.training.refusals import make_refusal_examples

#: Fewer tokens than this are no answer worth preferring.
_LEAST_ALTERNATE = 8


def make_term_examples(
    loaded: LoadedModel,
    spec: JobSpec,
    forget: Sequence[Example],
    retain: Sequence[Example],
    folder: Path,
    listener: Listener,
) -> dict[ExampleGroup, Sequence[Example]]:
    """Return the examples of every group the spec's terms read, each group in the order of its data set.

    The model must still be the base. What took time to make is kept in `folder` for a resumed run.
    """
    groups: dict[ExampleGroup, Sequence[Example]] = {"forget": forget, "retain": retain}
    term = spec.forget
    if forget and isinstance(term, Refusal | Dpo):
        groups["refusal"] = make_refusal_examples(forget, term.refusals, loaded, seed=spec.seed)
    if forget and isinstance(term, AltPo):
        groups["alternate"] = make_alternate_examples(
            forget,
            term,
            loaded,
            seed=spec.seed,
            max_tokens=min(spec.training.max_tokens, loaded.facts.context_tokens),
            folder=folder,
            listener=listener,
        )
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
    """Raise BadData naming every row of the set `name` that the forget term cannot use, BadSpec for a layer that is
    not there.
    """
    find_steered_layer(loaded.model, spec)
    if not any({"refusal", "alternate"} & set(term.groups) for term in get_terms(spec)):
        return
    plain = {row.number for row in rows if not row.messages}
    problems = [f"row {number}: plain text asks nothing that could be answered otherwise" for number in sorted(plain)]
    asking = [example for example in forget if example.row_number not in plain]
    if isinstance(spec.forget, Refusal | Dpo):
        refused = make_refusal_examples(forget, spec.forget.refusals, loaded, seed=spec.seed)
        problems += [
            f"row {example.row_number}: with its refusal {format_too_long(len(example.token_ids), max_tokens)}"
            for example in refused
            if len(example.token_ids) > max_tokens and example.row_number not in plain
        ]
    if isinstance(spec.forget, AltPo):
        context = loaded.facts.context_tokens
        lengths = [len(make_alternate_prompt(example, spec.forget, loaded)) for example in asking]
        problems += [
            f"row {example.row_number}: {length} tokens with all that is asked leave no room for an "
            f"alternate; the model's "
            f"limit is {context}"
            for example, length in zip(asking, lengths, strict=True)
            if length + _LEAST_ALTERNATE > context
        ]
    if problems:
        raise BadData(
            f"{name} set: {len(problems)} of {len(rows)} rows cannot be used with forget.kind '{spec.forget.kind}'; "
            "give prompts and answers, short refusals or a short instruction, or take 'npo'",
            details=tuple(problems),
        )

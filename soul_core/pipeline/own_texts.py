"""Text that the base model writes itself, on which all models of a run are measured: the set `general_own`.

Its perplexity under the unlearned model, divided by that under the base model, estimates exp(KL(base || unlearned)) per
token, wherever the base model's own text lies. So it needs no data, and sees damage that no data set shows.
"""

import itertools
from collections.abc import Sequence

from soul_core.atomic_io import load_or_make_json
from soul_core.conflicts import find_conflicts
from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.data import Message, Row
from soul_core.data.general_text import MAX_OWN_TOKENS, MIN_OWN_TOKENS, NUM_OWN_TEXTS
from soul_core.models.generation import Sampling, generate_until_stopped
from soul_core.models.loading import LoadedModel
from soul_core.pipeline.model_under_test import ModelUnderTest, add_dataset, compute_weights_digest
from soul_core.pipeline.state import RunState
from soul_core.spec import GENERAL_OWN, JobSpec

#: Asked in turn where a model only writes after a prompt.
_REQUESTS = (
    "Write a few sentences about anything you like.",
    "Tell me about something you know well.",
    "Write the beginning of a story.",
    "Explain how something works.",
)


def add_own_texts(
    resolution: ConflictResolution, model_under_test: ModelUnderTest, spec: JobSpec, state: RunState
) -> tuple[ConflictResolution, ModelUnderTest]:
    """Return data sets and base model with the set `general_own`; unchanged if the spec does not ask for it.

    A resumed run reads the texts from its state folder: a GPU may write others.
    """
    if GENERAL_OWN not in spec.list_made_sets(resolution.rows):
        return resolution, model_under_test
    path = (
        state.folder / f"own_texts-{spec.compute_sha256()[:16]}-{compute_weights_digest(model_under_test.loaded)}.json"
    )
    texts = load_or_make_json(
        path,
        "the texts of the base model",
        lambda: sample_own_texts(model_under_test.loaded, seed=spec.seed, listener=state),
    )
    rows = _leave_out_forget_facts(texts, resolution, spec)
    if not rows:
        state.emit(
            "warning",
            message=f"the base model wrote no text that can be measured, so the set {GENERAL_OWN} is left out",
        )
        return resolution, model_under_test
    description = f"{len(rows)} texts that the base model wrote at temperature 1, drawn by the seed"
    resolution = resolution.add_set(GENERAL_OWN, rows, "sampled", description)
    return resolution, add_dataset(model_under_test, GENERAL_OWN, rows, spec)


def sample_own_texts(loaded: LoadedModel, *, seed: int, listener: RunState) -> list[str]:
    """Return texts that the model writes at temperature 1 after its BOS token.

    A model whose tokenizer puts no token before a text (many chat models) answers general requests of its chat template
    instead; the texts are then measured without these requests. Without a chat template either, it continues its end
    token, which separates the documents of its training. Texts of fewer than 4 tokens are left out.
    """
    prompts = list(itertools.islice(itertools.cycle(_make_prompts(loaded)), NUM_OWN_TEXTS))
    answers = generate_until_stopped(loaded, prompts, MAX_OWN_TOKENS, listener, Sampling(seed, temperature=1.0))
    texts = (
        str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        for tokens in answers
        if len(tokens) >= MIN_OWN_TOKENS
    )
    return [text for text in texts if text]


def _leave_out_forget_facts(texts: Sequence[str], resolution: ConflictResolution, spec: JobSpec) -> tuple[Row, ...]:
    """Return the texts as rows, without those that state what is unlearned."""
    rows = [Row(number, (), text) for number, text in enumerate(texts, start=1)]
    stating = {
        conflict.row
        for name in filter(spec.unlearns, resolution.rows)
        for conflict in find_conflicts(resolution.rows[name], rows)
    }
    return tuple(row for row in rows if row.number not in stating)


def _make_prompts(loaded: LoadedModel) -> list[tuple[int, ...]]:
    encoder = loaded.encoder
    if start_ids := encoder.encode_prompt(Row(1, (), "")):
        return [start_ids]
    if encoder.template is not None:
        return [encoder.encode_prompt(Row(1, (Message("user", request),), "")) for request in _REQUESTS]
    return [(int(loaded.tokenizer.eos_token_id),)]

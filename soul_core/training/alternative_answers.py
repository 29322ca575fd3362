"""Other answers to the forget prompts, made by the model itself before it is changed: what the term `altpo` prefers.

Either the model is asked in a further turn of the same conversation: its prompt, the answer to forget, the instruction.
Or it answers the prompt itself while the words that make up the answer are held back.
Source: Mekala et al. 2024, arXiv:2409.13474 (sampled at temperature 1, at most 200 tokens).
Differs from it: question and answer stand in the chat's own turns instead of an `Question: ... Answer: ...` text; one
alternate an answer; what tells most of what the answer tells is drawn again, hotter each time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from soul_core.atomic_io import translate_disk_errors, write_atomically
from soul_core.data import Message, Row
from soul_core.data.encoding import Example
from soul_core.errors import BadData
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.models.generation import Sampling, generate, get_end_ids
from soul_core.models.loading import LoadedModel
from soul_core.spec.terms import AltPo
from soul_core.texts import extract_keywords, extract_word_set, split_words
from soul_core.training.refusals import replace_answer

_FILE = "alternates.json"


def make_alternate_examples(
    forget: Sequence[Example],
    term: AltPo,
    loaded: LoadedModel,
    *,
    seed: int,
    max_tokens: int,
    folder: Path,
    listener: Listener,
) -> list[Example]:
    """Return the forget prompts with an alternate each as the answer. They are made once and kept in `folder`.

    Raises BadData naming the rows of which the model makes no other answer.
    """
    kept = folder / _FILE
    if kept.exists():
        texts = json.loads(kept.read_text())
    else:
        texts = _make(forget, term, loaded, seed, max_tokens, listener)
        folder.mkdir(parents=True, exist_ok=True)
        with translate_disk_errors("the alternate answers"):
            write_atomically(kept, json.dumps(texts, ensure_ascii=False))
    return [replace_answer(example, text, loaded) for example, text in zip(forget, texts, strict=True)]


def make_alternate_prompt(example: Example, term: AltPo, loaded: LoadedModel) -> list[int]:
    """Return what the model continues: the prompt alone, or prompt and answer, the instruction, and what asks for an
    answer.
    """
    row = _source(example)
    if term.alternates == "constrained":
        return list(loaded.encoder.encode_prompt(row))
    answered_row = (*row.messages, Message("assistant", row.completion))
    if loaded.tokenizer.chat_template:
        messages = (*answered_row, Message("user", term.instruction))
        return list(loaded.encoder.encode_prompt(Row(row.number, messages, "")))
    text = loaded.tokenizer.encode(f"\n\n{term.instruction}\n\n", add_special_tokens=False)
    return [*example.token_ids[: len(example.token_ids) - example.num_end_tokens], *text]


def _make(
    forget: Sequence[Example], term: AltPo, loaded: LoadedModel, seed: int, max_tokens: int, listener: Listener
) -> list[str]:
    texts: list[str] = [""] * len(forget)
    missing = list(range(len(forget)))
    constrained = [_telling_tokens(example, loaded) for example in forget] if term.alternates == "constrained" else []
    for attempt in range(term.tries):
        if not missing:
            break
        done = len(forget) - len(missing)

        def tick(num_rows: int) -> None:
            nonlocal done
            raise_if_stop_requested(listener)
            done += num_rows
            if num_rows:
                listener.emit(
                    "progress", phase="unlearn", done=min(done, len(forget)), total=len(forget), unit="alternate answer"
                )

        prompts = [make_alternate_prompt(forget[index], term, loaded) for index in missing]
        answers = generate(
            loaded.model,
            prompts,
            end_ids=get_end_ids(loaded),
            max_new_tokens=term.max_new_tokens,
            context_tokens=loaded.facts.context_tokens,
            on_progress=tick,
            sampling=Sampling(
                seed + attempt,
                term.temperature * (1 + attempt / 4),
                {tuple(prompt): constrained[index] for prompt, index in zip(prompts, missing, strict=True)}
                if term.alternates == "constrained"
                else {},
            ),
        )
        for index, tokens in zip(missing, answers, strict=True):
            texts[index] = _as_answer(tokens, forget[index], loaded, max_tokens)
        missing = [index for index in missing if not _is_other(texts[index], forget[index])]
    if missing:
        raise BadData(
            f"forget set: the model makes no other answer of {len(missing)} of {len(forget)} rows; use forget.kind "
            "'dpo', whose winners are refusals, or another forget.instruction",
            details=tuple(f"row {forget[index].row_number}: no alternate in {term.tries} tries" for index in missing),
        )
    return texts


def _as_answer(tokens: Sequence[int], example: Example, loaded: LoadedModel, max_tokens: int) -> str:
    """Return the text of a continuation, its first paragraph, cut where the example would become too long."""
    text = loaded.encoder.decode_answer(tokens).answer.split("\n\n")[0].strip()
    while text and len(replace_answer(example, text, loaded).token_ids) > max_tokens:
        text = text[: len(text) * 3 // 4].rstrip()
    return text


def _is_other(text: str, example: Example) -> bool:
    """Say whether a text is another answer: not empty, not the same, and without most of what the answer tells."""
    old, asked = _texts(example)
    told, words = extract_keywords(old, asked), extract_word_set(text)
    repeated = 2 * len(told & words) > len(told) if told else words == extract_word_set(old)
    return bool(words) and not repeated


def _telling_tokens(example: Example, loaded: LoadedModel) -> tuple[int, ...]:
    """Return the tokens that the answer's keywords begin with, wherever in a sentence they stand."""
    old, asked = _texts(example)
    told = extract_keywords(old, asked)
    words = {word for word in split_words(old) if extract_word_set(word) & told}
    spelled = {form for word in words for form in (word, word.lower(), word.capitalize())}
    encoded = [loaded.tokenizer.encode(lead + word, add_special_tokens=False) for word in spelled for lead in ("", " ")]
    return tuple(sorted({tokens[0] for tokens in encoded if tokens}))


def _texts(example: Example) -> tuple[str, str]:
    """Return the answer's text and its prompt's."""
    row = _source(example)
    return row.completion, " ".join(message.content for message in row.messages)


def _source(example: Example) -> Row:
    assert example.source_row is not None, "alternates are made of rows"
    return example.source_row

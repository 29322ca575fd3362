"""Lets the base model write rows: prompts and texts are sampled, answers are greedy. Batches change nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from soul_core.data import Message, Row
from soul_core.data.encoding import encode_rows
from soul_core.errors import BadData
from soul_core.events import Listener
from soul_core.generated_retain.openings import Opening, make_text_openings, make_turn_openings
from soul_core.generated_retain.screening import Screening, cut_to_sentence
from soul_core.generated_retain.subjects import ForgetSubjects, Stem
from soul_core.models.generation import Sampling, generate_until_stopped
from soul_core.models.loading import LoadedModel
from soul_core.report import RetainPart
from soul_core.spec.generated_retain import GenerateRetain

#: Longest sampled prompt, in tokens after its stem.
_MAX_PROMPT_TOKENS = 24
#: Rounds of sampling before a part stays smaller than it was asked for.
_MAX_ROUNDS = 4
#: Samples, and then answers, per row that is still missing: some are refused.
_SAMPLES_PER_ROW, _ANSWERS_PER_ROW = 1.5, 1.15
#: A part of which this share exists is complete: another round for a few rows takes as long as one for many.
_COMPLETE_SHARE = 0.9


class RowGenerator:
    """Writes rows with one model, and reports progress."""

    def __init__(
        self, loaded: LoadedModel, settings: GenerateRetain, listener: Listener, *, seed: int, max_tokens: int
    ) -> None:
        self._loaded, self._settings, self._listener = loaded, settings, listener
        self._seed, self._max_tokens = seed, max_tokens
        self._num_done, self._next_number = 0, 1

    def answer(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with the model's greedy answers; one that was cut off ends with its last sentence."""
        encoder, max_new_tokens = self._loaded.encoder, self._settings.max_new_tokens
        answers = self._generate([encoder.encode_prompt(row) for row in rows], max_new_tokens)
        texts = [encoder.decode_answer(token_ids).answer for token_ids in answers]
        return [
            replace(row, completion=text if len(token_ids) < max_new_tokens else cut_to_sentence(text))
            for row, text, token_ids in zip(rows, texts, answers, strict=True)
        ]

    def select(self, rows: Sequence[Row], screening: Screening) -> list[Row]:
        """Return the rows that pass the screening and that the model can be trained on, with numbers of their own."""
        numbered = []
        for row in rows:
            numbered.append(replace(row, number=self._next_number))
            self._next_number += 1
        selected = []
        for row in screening.select_rows(numbered):
            try:
                encode_rows([row], self._loaded.encoder, max_tokens=self._max_tokens)
            except BadData:
                screening.count_unusable()
            else:
                selected.append(row)
        self._report(len(selected))
        return selected

    def write(
        self, forget: Sequence[Row], subjects: ForgetSubjects, screening: Screening
    ) -> dict[RetainPart, list[Row]]:
        """Return the neighbors and the free rows: sampled in rounds until there are enough of them."""
        wanted: dict[RetainPart, int] = {"neighbors": self._settings.neighbors, "free": self._settings.free}
        openings = self._make_openings(forget, subjects, screening)
        rows: dict[RetainPart, list[Row]] = {part: [] for part in wanted}
        for attempt in range(_MAX_ROUNDS):
            missing = {
                part: wanted[part] - len(rows[part])
                for part in wanted
                if openings[part] and len(rows[part]) < _COMPLETE_SHARE * wanted[part]
            }
            if not missing:
                break
            for part, row in self._write_rows(openings, missing, screening, seed=self._seed + attempt):
                rows[part].append(row)
        return {part: part_rows[: wanted[part]] for part, part_rows in rows.items()}

    def _make_openings(
        self, forget: Sequence[Row], subjects: ForgetSubjects, screening: Screening
    ) -> dict[RetainPart, list[Opening]]:
        encoder = self._loaded.encoder
        prompt_stems, text_stems = subjects.list_prompt_stems(), subjects.list_text_stems()
        system = next((row.messages[:1] for row in forget if row.messages and row.messages[0].role == "system"), ())
        if system and screening.has_protected_words(system[0].content):
            system = ()
        neighbors = make_turn_openings(prompt_stems, "neighbors", encoder, system=system)
        neighbors += make_text_openings(text_stems, "neighbors", encoder) if text_stems else []
        if prompt_stems and encoder.template is not None:
            free = make_turn_openings([Stem("")], "free", encoder, system=system)
        else:
            free = make_text_openings((), "free", encoder)
        return {"neighbors": neighbors, "free": free}

    def _write_rows(
        self,
        openings: Mapping[RetainPart, Sequence[Opening]],
        missing: Mapping[RetainPart, int],
        screening: Screening,
        *,
        seed: int,
    ) -> list[tuple[RetainPart, Row]]:
        """Sample prompts and texts for the missing rows of each part, and answer the prompts that pass."""
        chosen = [
            openings[part][index % len(openings[part])]
            for part, count in missing.items()
            for index in range(math.ceil(_SAMPLES_PER_ROW * count))
        ]
        turns = [opening for opening in chosen if opening.is_turn]
        texts = [opening for opening in chosen if not opening.is_turn]
        num_open = {part: math.ceil(_ANSWERS_PER_ROW * count) for part, count in missing.items()}
        asked: list[tuple[RetainPart, Row]] = []
        for opening, continuation, is_complete in self._sample(turns, _MAX_PROMPT_TOKENS, seed):
            if num_open[opening.part] == 0:
                continue
            prompt = opening.read_prompt(continuation, is_complete=is_complete)
            if prompt is None:
                screening.refused["unfinished"] += 1
            elif screening.accepts_prompt(prompt):
                num_open[opening.part] -= 1
                asked.append((opening.part, Row(0, (*opening.system, Message("user", prompt)), "")))
        answered = self.answer([row for _, row in asked])
        pairs = [(part, row) for (part, _), row in zip(asked, answered, strict=True)]
        for opening, continuation, is_complete in self._sample(texts, self._settings.max_new_tokens, seed):
            text = opening.read_text(continuation, is_complete=is_complete)
            if screening.accepts_prompt(text):
                pairs.append((opening.part, Row(0, (), text)))
        first = self._next_number
        selected = self.select([row for _, row in pairs], screening)
        return [(pairs[row.number - first][0], row) for row in selected]

    def _sample(self, openings: Sequence[Opening], max_new_tokens: int, seed: int) -> list[tuple[Opening, str, bool]]:
        """Return each opening with its sampled continuation, and whether the model ended it."""
        sampling = Sampling(seed, self._settings.temperature)
        sampled = self._generate([opening.token_ids for opening in openings], max_new_tokens, sampling)
        return [
            (opening, self._decode(opening.token_ids, token_ids), len(token_ids) < max_new_tokens)
            for opening, token_ids in zip(openings, sampled, strict=True)
        ]

    def _decode(self, prompt: Sequence[int], token_ids: Sequence[int]) -> str:
        """Return the text of tokens after a prompt, with the space between both; it ends at the first control token."""
        tokenizer = self._loaded.tokenizer
        text = str(tokenizer.decode([*prompt, *token_ids]))[len(str(tokenizer.decode(list(prompt)))) :]
        for special_token in tokenizer.all_special_tokens:
            text = text.split(special_token)[0]
        return text

    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[list[int]]:
        with self._loaded.autocast():
            return generate_until_stopped(self._loaded, prompts, max_new_tokens, self._listener, sampling)

    def _report(self, num_rows: int) -> None:
        self._num_done = min(self._num_done + num_rows, self._settings.num_rows)
        self._listener.emit(
            "progress", phase="load", done=self._num_done, total=self._settings.num_rows, unit="generated rows"
        )

"""What is said instead: a third term on the forget prompts, which the tiny model learns while it forgets."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import encode_rows
from soul_core.data.packing import pack
from soul_core.errors import BadData
from soul_core.events import SilentListener
from soul_core.models.generation import generate, get_end_ids
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.objectives import AFTER_TERMS, get_terms
from soul_core.spec import JobSpec
from soul_core.training.base_scores import BaseScores
from soul_core.training.batches import TrainingBatches
from soul_core.training.micro_batching import MicroBatcher
from soul_core.training.step import add_gradients
from soul_core.training.term_examples import check_terms, make_term_examples
from soul_core.training.trainer import train
from tests.fixtures.capitals import COUNTRIES, rows_of

FORGET, RETAIN = rows_of(list(COUNTRIES)[:3]), rows_of(list(COUNTRIES)[3:], start=4)
TEXT = "I don't know."


def make_spec(weight: float = 1.0, **changes: Any) -> JobSpec:
    after = {"kind": "unknown", "weight": weight, "refusals": [TEXT]}
    training = {"forget_batch": 2, "retain_batch": 2}
    return JobSpec.model_validate(
        {"forget": {"kind": "simnpo"}, "after": after, "training": training, "optimizer": {"kind": "adamw"}, **changes}
    )


def make_batches(loaded: LoadedModel, spec: JobSpec, folder: Path) -> TrainingBatches:
    sets = [encode_rows(rows, loaded.encoder, max_tokens=128) for rows in (FORGET, RETAIN)]
    return TrainingBatches(spec, make_term_examples(loaded, spec, *sets, folder, SilentListener()))


def test_its_examples_share_the_unit_of_their_forget_row(loaded: LoadedModel, tmp_path: Path) -> None:
    units = make_batches(loaded, make_spec(), tmp_path).next_batch()
    assert [[item.group for item in unit] for unit in units] == 2 * [["forget", "after"]] + 2 * [["retain"]]
    assert all(unit[0].example.row_number == unit[1].example.row_number for unit in units[:2])


def test_the_total_is_the_weighted_sum_with_the_mean_nll_of_the_texts(loaded: LoadedModel, tmp_path: Path) -> None:
    spec = make_spec(weight=3.0)
    units = make_batches(loaded, spec, tmp_path).next_batch()
    losses = add_gradients(loaded, spec, units, BaseScores(loaded.device), MicroBatcher(10**6, SilentListener()))
    scores = score(loaded.model, pack([unit[1].example for unit in units[:2]]))
    assert losses.after == pytest.approx(-float(scores.logp_P.detach().mean()), rel=1e-5)
    expected = spec.forget.weight * losses.forget + 3.0 * losses.after + spec.retain.weight * losses.retain
    assert losses.total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("forget", ["npo", "ce_u", "refusal"])
def test_forgotten_prompts_get_the_text_and_others_their_answers(
    loaded: LoadedModel, tmp_path: Path, forget: str
) -> None:
    spec = make_spec(
        weight=5.0,
        forget={"kind": forget},
        retain={"kind": "nll", "weight": 5},
        optimizer={"kind": "adamw", "lr": 2e-3},
        training={"steps": 60, "forget_batch": 3, "retain_batch": 7},
    )
    sets = [encode_rows(rows, loaded.encoder, max_tokens=128) for rows in (FORGET, RETAIN)]

    result = train(loaded, spec, forget=sets[0], retain=sets[1], state_dir=tmp_path, listener=SilentListener())

    answers = generate(
        loaded.model,
        [loaded.encoder.encode_prompt(row) for row in (*FORGET, *RETAIN)],
        end_ids=get_end_ids(loaded),
        max_new_tokens=16,
        context_tokens=128,
    )
    texts = [loaded.encoder.decode_answer(token_ids).answer for token_ids in answers]
    assert texts == [TEXT] * 3 + [row.completion for row in RETAIN]
    forget_logp_B = score(loaded.model, pack(sets[0])).sequence_logp_B.detach()
    assert float(torch.exp(forget_logp_B).max()) < 0.05
    assert result.curves["after_loss"][-1] < result.curves["after_loss"][0]


def test_plain_text_has_no_prompt_for_it(loaded: LoadedModel) -> None:
    rows = [row.__class__(row.number, (), row.completion) for row in FORGET]
    with pytest.raises(BadData, match=r"cannot be used with after\.kind 'unknown'"):
        check_terms(rows, encode_rows(rows, loaded.encoder, max_tokens=128), make_spec(), loaded, max_tokens=128)


@pytest.mark.parametrize("kind", AFTER_TERMS)
def test_each_kind_ships_twenty_different_texts(kind: str) -> None:
    texts = JobSpec.model_validate({"after": {"kind": kind}}).after.refusals  # type: ignore[union-attr]
    assert len(set(texts)) == 20


def test_without_it_a_job_has_no_such_part() -> None:
    assert set(get_terms(JobSpec())) == {"forget", "retain"}

"""The base's numbers, kept once: equal to what the base says, for exactly what training uses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from bench.tiny_architectures import save_tiny
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import PackedBatch, pack
from soul_core.errors import BadSpec
from soul_core.events import SilentListener
from soul_core.models.layers import find_decoder_layers
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import Scores, score
from soul_core.objectives.terms import BaseScoreKind, ExampleGroup
from soul_core.training.base_scores import BaseScoreRequest, BaseScores, compute_base_scores
from soul_core.training.micro_batching import MicroBatcher
from tests.fixtures.capitals import COUNTRIES, rows_of

ALL: tuple[BaseScoreKind, ...] = ("sequence_logp", "logits", "hidden")


@pytest.fixture(params=["Llama", "Gemma 2", "GPT-2"])
def loaded_model(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(save_tiny(request.param, tmp_path / "m"), device="cpu")


@pytest.fixture
def examples(loaded_model: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(list(COUNTRIES)[:6]), loaded_model.encoder, max_tokens=128)


def take(
    loaded_model: LoadedModel, wanted: dict[ExampleGroup, BaseScoreRequest], max_tokens: int = 10**9
) -> BaseScores:
    batcher = MicroBatcher(max_tokens, SilentListener())
    return compute_base_scores(
        loaded_model,
        wanted,
        batcher=batcher,
        listener=SilentListener(),
        layer=find_decoder_layers(loaded_model.model)[0],
    )


def test_the_kept_numbers_are_the_bases_own(loaded_model: LoadedModel, examples: list[Example], tmp_path: Path) -> None:
    used = [1, 3, 4]

    taken = take(loaded_model, {"retain": BaseScoreRequest(examples, used, ALL)}, max_tokens=60)
    taken.save(tmp_path / "state")
    remaining = BaseScores.load(tmp_path / "state", loaded_model)

    assert remaining is not None
    chosen = [examples[index] for index in (4, 1)]
    scores = score(loaded_model.model, pack(chosen), layer=find_decoder_layers(loaded_model.model)[0])
    assert scores.hidden_PD is not None
    for scored in (taken, remaining):
        reference = scored.get("retain", [4, 1])
        assert reference.sequence_logp_B is not None
        assert reference.logits_PV is not None
        assert reference.hidden_PD is not None
        torch.testing.assert_close(reference.sequence_logp_B, scores.sequence_logp_B.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(reference.logits_PV, scores.logits_PV.detach(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(reference.hidden_PD, scores.hidden_PD.detach(), rtol=1e-4, atol=1e-4)
        mean = scored.mean_nll("retain", [4, 1], len(scores.labels_P))
        assert mean == pytest.approx(-float(scores.logp_P.detach().mean()), rel=1e-4)
    assert all(set(by_index) == set(used) for by_index in taken.tensors.values()), "only what training uses"


def test_groups_of_the_same_prompts_keep_their_own_numbers(loaded_model: LoadedModel, examples: list[Example]) -> None:
    turned = examples[::-1]

    taken = take(
        loaded_model,
        {
            "forget": BaseScoreRequest(examples, [0, 1], ("sequence_logp",)),
            "refusal": BaseScoreRequest(turned, [0, 1], ("sequence_logp",)),
        },
    )

    logp_B = score(loaded_model.model, pack([examples[0], turned[0]])).sequence_logp_B.detach()
    for group, expected in zip(("forget", "refusal"), logp_B, strict=True):
        result = taken.get(group, [0]).sequence_logp_B
        assert result is not None
        torch.testing.assert_close(result[0], expected, rtol=1e-4, atol=1e-4)
        assert taken.get(group, [0]).logits_PV is None


def test_the_reference_stays_when_the_model_moves(loaded_model: LoadedModel, examples: list[Example]) -> None:
    taken = take(loaded_model, {"forget": BaseScoreRequest(examples, [0, 1], ALL)})
    before = taken.get("forget", [0])

    with torch.no_grad():
        for parameter in loaded_model.model.parameters():
            parameter.add_(1.0)

    after = taken.get("forget", [0])
    for entry, two in ((before.logits_PV, after.logits_PV), (before.hidden_PD, after.hidden_PD)):
        assert entry is not None
        assert two is not None
        torch.testing.assert_close(entry, two)


def test_logits_made_in_an_unknown_way_are_refused_not_guessed(
    loaded_model: LoadedModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def double(model: PreTrainedModel, packed: PackedBatch, **options: Any) -> Scores:
        scores = score(model, packed, **options)
        return replace(scores, logits_PV=scores.logits_PV * 2 + 5)

    monkeypatch.setattr("soul_core.training.base_scores.score", double)  # the fault

    with pytest.raises(BadSpec, match="use 'nll'"):
        take(loaded_model, {"retain": BaseScoreRequest(examples, [0], ("logits",))})


def test_when_memory_runs_out_the_reference_is_taken_in_smaller_parts(
    loaded_model: LoadedModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[ExampleGroup, BaseScoreRequest] = {
        "forget": BaseScoreRequest(examples, [0, 2, 3, 5], ("sequence_logp",)),
        "retain": BaseScoreRequest(examples, [1, 2], ("logits", "hidden")),
    }
    plain = take(loaded_model, wanted)
    largest = max(len(example.token_ids) for example in examples)

    def small(model: PreTrainedModel, packed: PackedBatch, **options: Any) -> Scores:
        if packed.token_ids_1T.shape[1] > largest:
            raise torch.OutOfMemoryError("no more")
        return score(model, packed, **options)

    monkeypatch.setattr("soul_core.training.base_scores.score", small)  # the fault
    taken = take(loaded_model, wanted)

    assert taken.tensors.keys() == plain.tensors.keys()
    for key, by_index in plain.tensors.items():
        assert taken.tensors[key].keys() == by_index.keys()
        for index, value in by_index.items():
            torch.testing.assert_close(taken.tensors[key][index], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", ["retain", "forget"])
def test_more_hidden_states_than_may_be_kept_are_refused_before_they_are_taken(
    loaded_model: LoadedModel, examples: list[Example], group: ExampleGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soul_core.training.base_scores.MAX_HIDDEN_STATE_BYTES", 100)
    monkeypatch.setattr("soul_core.training.base_scores.score", None)  # would fail if it were called

    with pytest.raises(BadSpec, match=f"{group}.kind would keep .* for 3 {group} rows"):
        take(loaded_model, {group: BaseScoreRequest(examples, [0, 1, 2], ("logits",))})

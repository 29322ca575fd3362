"""Base scores: equal to the base model's own numbers, for exactly the examples that training uses."""

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


@pytest.fixture(params=["Llama", "Gemma 2", "GPT-2"], name="loaded")
def load_tiny_model(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(save_tiny(request.param, tmp_path / "m"), device="cpu")


@pytest.fixture
def examples(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(list(COUNTRIES)[:6]), loaded.encoder, max_tokens=128)


def compute(loaded: LoadedModel, requests: dict[ExampleGroup, BaseScoreRequest], max_tokens: int = 10**9) -> BaseScores:
    batcher = MicroBatcher(max_tokens, SilentListener())
    return compute_base_scores(
        loaded, requests, batcher=batcher, listener=SilentListener(), layer=find_decoder_layers(loaded.model)[0]
    )


def test_computed_and_restored_scores_are_the_base_models_own(
    loaded: LoadedModel, examples: list[Example], tmp_path: Path
) -> None:
    used = [1, 3, 4]

    computed = compute(loaded, {"retain": BaseScoreRequest(examples, used, ALL)}, max_tokens=60)
    computed.save(tmp_path / "state")
    restored = BaseScores.load(tmp_path / "state", loaded)

    assert restored is not None
    chosen = [examples[index] for index in (4, 1)]
    scores = score(loaded.model, pack(chosen), layer=find_decoder_layers(loaded.model)[0])
    assert scores.hidden_PD is not None
    for stored in (computed, restored):
        base_scores = stored.get("retain", [4, 1])
        assert base_scores.sequence_logp_B is not None
        assert base_scores.logits_PV is not None
        assert base_scores.hidden_PD is not None
        torch.testing.assert_close(base_scores.sequence_logp_B, scores.sequence_logp_B.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(base_scores.logits_PV, scores.logits_PV.detach(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(base_scores.hidden_PD, scores.hidden_PD.detach(), rtol=1e-4, atol=1e-4)
        mean = stored.mean_nll("retain", [4, 1], len(scores.labels_P))
        assert mean == pytest.approx(-float(scores.logp_P.detach().mean()), rel=1e-4)
    assert all(set(by_index) == set(used) for by_index in computed.tensors.values()), "only what training uses"


def test_groups_of_the_same_prompts_keep_their_own_numbers(loaded: LoadedModel, examples: list[Example]) -> None:
    reversed_examples = examples[::-1]

    computed = compute(
        loaded,
        {
            "forget": BaseScoreRequest(examples, [0, 1], ("sequence_logp",)),
            "refusal": BaseScoreRequest(reversed_examples, [0, 1], ("sequence_logp",)),
        },
    )

    logp_B = score(loaded.model, pack([examples[0], reversed_examples[0]])).sequence_logp_B.detach()
    for group, expected in zip(("forget", "refusal"), logp_B, strict=True):
        stored_logp_B = computed.get(group, [0]).sequence_logp_B
        assert stored_logp_B is not None
        torch.testing.assert_close(stored_logp_B[0], expected, rtol=1e-4, atol=1e-4)
        assert computed.get(group, [0]).logits_PV is None


def test_the_scores_stay_when_the_model_changes(loaded: LoadedModel, examples: list[Example]) -> None:
    computed = compute(loaded, {"forget": BaseScoreRequest(examples, [0, 1], ALL)})
    before = computed.get("forget", [0])

    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(1.0)

    after = computed.get("forget", [0])
    for old, new in ((before.logits_PV, after.logits_PV), (before.hidden_PD, after.hidden_PD)):
        assert old is not None
        assert new is not None
        torch.testing.assert_close(new, old)


def test_logits_that_cannot_be_reproduced_are_refused(
    loaded: LoadedModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def double_logits(model: PreTrainedModel, packed: PackedBatch, **options: Any) -> Scores:
        scores = score(model, packed, **options)
        return replace(scores, logits_PV=scores.logits_PV * 2 + 5)

    monkeypatch.setattr("soul_core.training.base_scores.score", double_logits)  # the fault

    with pytest.raises(BadSpec, match="use 'nll'"):
        compute(loaded, {"retain": BaseScoreRequest(examples, [0], ("logits",))})


def test_when_memory_runs_out_the_scores_are_computed_in_smaller_batches(
    loaded: LoadedModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: dict[ExampleGroup, BaseScoreRequest] = {
        "forget": BaseScoreRequest(examples, [0, 2, 3, 5], ("sequence_logp",)),
        "retain": BaseScoreRequest(examples, [1, 2], ("logits", "hidden")),
    }
    plain = compute(loaded, requests)
    max_tokens = max(len(example.token_ids) for example in examples)

    def score_small(model: PreTrainedModel, packed: PackedBatch, **options: Any) -> Scores:
        if packed.token_ids_1T.shape[1] > max_tokens:
            raise torch.OutOfMemoryError("no more")
        return score(model, packed, **options)

    monkeypatch.setattr("soul_core.training.base_scores.score", score_small)  # the fault
    computed = compute(loaded, requests)

    assert computed.tensors.keys() == plain.tensors.keys()
    for key, by_index in plain.tensors.items():
        assert computed.tensors[key].keys() == by_index.keys()
        for index, value in by_index.items():
            torch.testing.assert_close(computed.tensors[key][index], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", ["retain", "forget"])
def test_too_many_hidden_states_are_refused_before_they_are_computed(
    loaded: LoadedModel, examples: list[Example], group: ExampleGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soul_core.training.base_scores.MAX_HIDDEN_STATE_BYTES", 100)
    monkeypatch.setattr("soul_core.training.base_scores.score", None)  # would fail if it were called

    with pytest.raises(BadSpec, match=f"{group}.kind would store .* for 3 {group} rows"):
        compute(loaded, {group: BaseScoreRequest(examples, [0, 1, 2], ("logits",))})

"""The logit lens at the last layer gives the model's own scores, for any architecture; other layers are read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tiny_architectures import build_tiny
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.attacks.hidden_states import HiddenStateRecorder
from soul_core.models.layers import find_decoder_layers
from soul_core.models.loading import LoadedModel
from soul_core.models.packed_attention import PACKED_ATTENTION
from soul_core.report import ModelFacts
from soul_core.spec.attacks import Probing
from tests.fixtures.architectures import PACKED_ARCHITECTURES
from tests.soul_core.attacks.conftest import attack, hide_answers, make_sets, value

FACTS = ModelFacts(source="-", digest="-", architecture="-", num_parameters=1, context_tokens=128, chat_template=True)


def make_loaded(name: str) -> LoadedModel:
    model = build_tiny(name, attn_implementation=PACKED_ATTENTION)
    return LoadedModel(model, make_tiny_tokenizer(), FACTS, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_the_lens_at_the_last_layer_gives_the_models_own_scores(name: str, tmp_path: Path) -> None:
    loaded = make_loaded(name)

    outcome = attack(loaded, Probing(layers=(0, 1)), tmp_path)

    assert outcome.absent_reason is None
    for metric in ("probability", "exact_memorization", "extraction_strength"):
        seen, plain = outcome.variants["layer 1"][metric], outcome.baseline["forget"][metric]
        assert seen.per_example == pytest.approx(plain.per_example, abs=1e-5)
    assert outcome.variants["layer 0"]["probability"].value != outcome.variants["layer 1"]["probability"].value


@pytest.fixture
def hiding_in_the_last_layer(knowing: LoadedModel) -> LoadedModel:
    return hide_answers(knowing, "layers.1.", lr=1e-3, until=3.0)


def test_a_lower_layer_reveals_what_the_last_one_hides(
    hiding_in_the_last_layer: LoadedModel, retrained_model: LoadedModel, tmp_path: Path
) -> None:
    hidden = attack(hiding_in_the_last_layer, Probing(), tmp_path / "hiding")
    never_known = attack(retrained_model, Probing(), tmp_path / "retrained")

    plain = hidden.baseline["forget"]["probability"].value
    assert plain is not None
    assert value(hidden) > 2 * plain
    assert value(never_known) < value(hidden)
    best = [
        max(row)
        for row in zip(*(metrics["probability"].per_example or () for metrics in hidden.variants.values()), strict=True)
    ]  # type: ignore[type-var]
    assert list(hidden.attacked["forget"]["probability"].per_example or ()) == best


@pytest.mark.parametrize(
    ("num_layers", "expected"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (30, [7, 14, 21, 29]), (32, [7, 15, 23, 31])]
)
def test_by_default_it_reads_the_quarters_and_the_last_layer(num_layers: int, expected: list[int]) -> None:
    from soul_core.attacks.probing import choose_layers

    assert choose_layers(Probing(), num_layers) == expected


def test_a_missing_layer_makes_it_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, Probing(layers=(0, 2)), tmp_path)

    assert outcome.absent_reason == "there is no layer 2: the model has 2, counted from 0"


def test_logits_computed_in_another_way_make_it_absent(knowing: LoadedModel, tmp_path: Path, monkeypatch: Any) -> None:
    head = knowing.model.lm_head
    monkeypatch.setattr(head, "forward", lambda hidden: torch.nn.functional.linear(hidden, head.weight) * 3)

    outcome = attack(knowing, Probing(), tmp_path)

    assert "in another way than by final norm and output embedding" in (outcome.absent_reason or "")


def test_a_model_without_a_list_of_layers_makes_it_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    knowing.model.config.num_hidden_layers = 3

    outcome = attack(knowing, Probing(), tmp_path, sets=make_sets(knowing))

    assert "has no list of 3 decoder layers" in (outcome.absent_reason or "")


def test_the_recorder_removes_its_hooks(knowing: LoadedModel) -> None:
    with HiddenStateRecorder(knowing.model, [0]):
        pass

    assert not any(module._forward_hooks for module in knowing.model.modules())
    assert len(find_decoder_layers(replace(knowing).model)) == 2

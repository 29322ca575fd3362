"""The last layer through the lens is the model itself, whatever the architecture; the others are looked at."""

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
from tests.soul_core.attacks.conftest import attack, hidden_by, sets_of, value

FACTS = ModelFacts(source="-", digest="-", architecture="-", num_parameters=1, context_tokens=128, chat_template=True)


def loaded_of(name: str) -> LoadedModel:
    model = build_tiny(name, attn_implementation=PACKED_ATTENTION)
    return LoadedModel(model, make_tiny_tokenizer(), FACTS, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_the_last_layer_through_the_lens_is_the_model_itself(name: str, tmp_path: Path) -> None:
    loaded = loaded_of(name)

    attacked = attack(loaded, Probing(layers=(0, 1)), tmp_path)

    assert attacked.absent_reason is None
    for metric in ("probability", "exact_memorization", "extraction_strength"):
        seen, plain = attacked.variants["layer 1"][metric], attacked.baseline["forget"][metric]
        assert seen.per_example == pytest.approx(plain.per_example, abs=1e-5)
    assert attacked.variants["layer 0"]["probability"].value != attacked.variants["layer 1"]["probability"].value


@pytest.fixture
def hiding_in_the_last_layer(knowing: LoadedModel) -> LoadedModel:
    return hidden_by(knowing, "layers.1.", lr=1e-3, until=3.0)


def test_a_lower_layer_still_says_what_the_last_one_does_not(
    hiding_in_the_last_layer: LoadedModel, retrained: LoadedModel, tmp_path: Path
) -> None:
    hidden = attack(hiding_in_the_last_layer, Probing(), tmp_path / "hiding")
    never_known = attack(retrained, Probing(), tmp_path / "retrained")

    plain = hidden.baseline["forget"]["probability"].value
    assert plain is not None
    assert value(hidden) > 2 * plain
    assert value(never_known) < value(hidden)
    best = [
        max(row)
        for row in zip(*(one["probability"].per_example or () for one in hidden.variants.values()), strict=True)
    ]  # type: ignore[type-var]
    assert list(hidden.attacked["forget"]["probability"].per_example or ()) == best


@pytest.mark.parametrize(
    ("num_layers", "wanted"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (30, [7, 14, 21, 29]), (32, [7, 15, 23, 31])]
)
def test_by_itself_it_reads_quarters_and_the_last(num_layers: int, wanted: list[int]) -> None:
    from soul_core.attacks.probing import choose_layers

    assert choose_layers(Probing(), num_layers) == wanted


def test_a_layer_the_model_has_not_makes_it_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, Probing(layers=(0, 2)), tmp_path)

    assert attacked.absent_reason == "there is no layer 2: the model has 2, counted from 0"


def test_logits_made_in_another_way_make_it_absent(knowing: LoadedModel, tmp_path: Path, monkeypatch: Any) -> None:
    head = knowing.model.lm_head
    monkeypatch.setattr(head, "forward", lambda hidden: torch.nn.functional.linear(hidden, head.weight) * 3)

    attacked = attack(knowing, Probing(), tmp_path)

    assert "in another way than final norm and output embedding" in (attacked.absent_reason or "")


def test_a_model_without_a_list_of_layers_makes_it_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    knowing.model.config.num_hidden_layers = 3

    attacked = attack(knowing, Probing(), tmp_path, sets=sets_of(knowing))

    assert "has no list of 3 decoder layers" in (attacked.absent_reason or "")


def test_the_watcher_leaves_no_hook_behind(knowing: LoadedModel) -> None:
    with HiddenStateRecorder(knowing.model, [0]):
        pass

    assert not any(module._forward_hooks for module in knowing.model.modules())
    assert len(find_decoder_layers(replace(knowing).model)) == 2

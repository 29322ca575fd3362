"""Rounding follows its formula, covers every matrix, and undoes changes that are too small to survive it."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from bench.tiny_architectures import build_tiny, make_config
from soul_core.attacks.quantize import list_weight_matrices, round_in_place
from soul_core.data import Row
from soul_core.models.loading import LoadedModel
from soul_core.spec.attacks import Quantize
from tests.fixtures.architectures import PACKED_ARCHITECTURES
from tests.fixtures.capitals import rows_of
from tests.soul_core.attacks.conftest import FORGET_COUNTRIES, attack, descend, make_set, make_sets, value


def round_by_hand(row: list[float], *, bits: int, group: int) -> list[float]:
    """Round one weight at a time."""
    max_level = 2 ** (bits - 1) - 1
    result: list[float] = []
    for start in range(0, len(row), group or len(row)):
        part = row[start : start + (group or len(row))]
        scale = max(map(abs, part)) / max_level
        result += [round(weight / scale) * scale if scale else weight for weight in part]
    return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [0, 1, 8, 64, 1000])
def test_rounding_equals_the_formula_one_weight_at_a_time(bits: int, group: int) -> None:
    weights = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    weights[2, :64] = 0  # a group of zeros
    expected = torch.tensor([round_by_hand(row.tolist(), bits=bits, group=group) for row in weights])

    round_in_place(weights, bits=bits, group_size=group)

    assert torch.allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 0)])
def test_the_error_is_at_most_half_a_scale_and_levels_are_those_of_the_bits(bits: int, group: int) -> None:
    before = torch.randn(16, 256, generator=torch.Generator().manual_seed(1))
    after = before.clone()

    round_in_place(after, bits=bits, group_size=group)

    max_level = 2 ** (bits - 1) - 1
    for old, new in zip(before.split(group or 256, dim=1), after.split(group or 256, dim=1), strict=True):
        scale = old.abs().amax(dim=1, keepdim=True) / max_level
        assert ((old - new).abs() <= scale / 2 + 1e-6).all()
        assert all(len(row.unique()) <= 2 * max_level + 1 for row in new)
        assert torch.allclose(old.abs().amax(dim=1), new.abs().amax(dim=1))


def test_rounding_twice_equals_rounding_once() -> None:
    weights = torch.randn(4, 128, generator=torch.Generator().manual_seed(2))
    round_in_place(weights, bits=4, group_size=64)
    once = weights.clone()

    round_in_place(weights, bits=4, group_size=64)

    assert torch.allclose(weights, once, atol=1e-6)


@pytest.mark.parametrize("name", PACKED_ARCHITECTURES)
def test_every_matrix_is_listed_once_and_no_norm_or_bias(name: str) -> None:
    model = build_tiny(name)

    matrices = list_weight_matrices(model)

    assert {id(parameter) for _, parameter in matrices} == {id(parameter) for parameter in model.parameters()}
    assert len(matrices) == len({id(parameter) for _, parameter in matrices})
    assert all((weights is not None) == (parameter.ndim == 2) for weights, parameter in matrices)
    assert all(weights is None or weights.data_ptr() == parameter.data_ptr() for weights, parameter in matrices)


def test_gpt2_rows_are_outputs_although_they_are_stored_as_columns() -> None:
    config = make_config("GPT-2")
    assert isinstance(config, GPT2Config)
    model = build_tiny(config)
    wide = model.transformer.h[0].mlp.c_fc.weight

    weights = next(weights for weights, parameter in list_weight_matrices(model) if parameter is wide)

    assert weights is not None
    assert weights.shape == (config.n_inner or 4 * config.n_embd, config.n_embd)


@torch.no_grad()
def _clamp_to_grid(loaded: LoadedModel, grid: dict[str, torch.Tensor], *, fraction: float) -> None:
    """Clamp each weight to a fraction of its scale around the grid; the largest, which set the scale, stay."""
    for name, parameter in loaded.model.named_parameters():
        start = grid[name]
        scale = start.abs().amax(dim=-1, keepdim=True) / 7 if start.ndim == 2 else torch.zeros(1)
        radius = torch.where(start.abs() < start.abs().amax(dim=-1, keepdim=True), fraction * scale, torch.zeros(1))
        parameter.copy_(torch.maximum(torch.minimum(parameter, start + radius), start - radius))


def test_unlearning_by_less_than_half_a_scale_is_rounded_away(knowing: LoadedModel, tmp_path: Path) -> None:
    rows: list[Row] = rows_of(FORGET_COUNTRIES)
    for weights, _ in list_weight_matrices(knowing.model):
        if weights is not None:
            round_in_place(weights, bits=4, group_size=0)
    grid = {name: parameter.detach().clone() for name, parameter in knowing.model.named_parameters()}
    for _ in range(30):
        descend(knowing, rows, steps=1, lr=1e-2, sign=-1.0, until=6.0)
        _clamp_to_grid(knowing, grid, fraction=0.45)

    outcome = attack(knowing, Quantize(bits=4, group=0), tmp_path, sets=make_sets(knowing))

    baseline = outcome.baseline["forget"]["probability"].value
    assert baseline is not None
    assert baseline < 0.3
    assert value(outcome) > 0.9


def test_plain_text_has_likelihoods_but_absent_answers(knowing: LoadedModel, tmp_path: Path) -> None:
    text = [Row(i, (), f"The capital is {place}.") for i, place in enumerate(("Paris", "Rome", "Madrid"), start=1)]

    outcome = attack(knowing, Quantize(), tmp_path, sets=[make_set(knowing, "forget", text)])

    assert value(outcome) > 0
    assert outcome.attacked["forget"]["keyword_recall"].absent_reason

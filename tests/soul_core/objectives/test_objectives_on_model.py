"""What every term of the tables must do on a real model: splitting, order, neighbors and padding change nothing."""

from pathlib import Path

import pytest
import torch

from soul_core.data.encoding import Example, encode_rows
from soul_core.events import SilentListener
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import Scores
from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS, collect_base_score_kinds, find_steered_layer, get_terms
from soul_core.objectives.terms import ExampleGroup, TermInputs
from soul_core.spec import JobSpec
from soul_core.training.base_scores import BaseScoreRequest, BaseScores, compute_base_scores
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.step import add_gradients, count_totals
from soul_core.training.term_examples import make_term_examples
from tests.fixtures.capitals import COUNTRIES, rows_of

ALL = list(COUNTRIES)
OF_OWN = {"rmu_retain": "rmu"}
PAIRS = [(forget, "nll") for forget in FORGET_TERMS] + [(OF_OWN.get(kind, "grad_diff"), kind) for kind in RETAIN_TERMS]


class Material:
    """A model away from its base, a step's units, and what they need of the base."""

    def __init__(self, folder: Path, state: Path, forget: str, retain: str, dtype: str = "float32") -> None:
        self.loaded = load_model(folder, device="cpu", dtype=dtype)  # type: ignore[arg-type]
        self.spec = JobSpec.model_validate({"forget": {"kind": forget}, "retain": {"kind": retain}, "seed": 3})
        encode = self.loaded.encoder
        self.groups = make_term_examples(
            self.loaded,
            self.spec,
            encode_rows(rows_of(ALL[:4]), encode, max_tokens=128),
            encode_rows(rows_of(ALL[4:], start=5), encode, max_tokens=128),
            state,
            SilentListener(),
        )
        self.reference = self._reference()
        self.units: list[BatchUnit] = []
        for term, _ in get_terms(self.spec).values():
            indices = range(len(self.groups[term.groups[0]]))
            self.units += [
                tuple(BatchItem(group, index, self.groups[group][index]) for group in term.groups) for index in indices
            ]
        self._leave_base()

    def gradients(self, units: list[BatchUnit], max_tokens: int = 10**6) -> list[torch.Tensor]:
        self.loaded.model.zero_grad(set_to_none=True)
        self.loss(units, max_tokens)
        return [parameter.grad.clone() for parameter in self.loaded.model.parameters() if parameter.grad is not None]

    def loss(self, units: list[BatchUnit], max_tokens: int = 10**6) -> float:
        batcher = MicroBatcher(max_tokens, SilentListener())
        return add_gradients(self.loaded, self.spec, units, self.reference, batcher).total

    def _reference(self) -> BaseScores:
        wanted = {
            group: BaseScoreRequest(self.groups[group], range(len(self.groups[group])), needs)
            for group, needs in collect_base_score_kinds(self.spec).items()
        }
        layer = find_steered_layer(self.loaded.model, self.spec)
        return compute_base_scores(
            self.loaded, wanted, batcher=MicroBatcher(2048, SilentListener()), listener=SilentListener(), layer=layer
        )

    def _leave_base(self) -> None:
        """At the base KL and its like are zero, and so are their gradients."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.loaded.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def material(request: pytest.FixtureRequest, taught_model_dir: Path, tmp_path: Path) -> Material:
    torch.set_num_threads(1)
    return Material(taught_model_dir, tmp_path, *request.param)


def test_accumulation_order_and_neighbors_change_nothing(material: Material) -> None:
    together = material.gradients(material.units)
    apart = material.gradients(material.units, max_tokens=1)
    backwards = material.gradients(material.units[::-1], max_tokens=100)

    assert any(float(gradient.abs().max()) > 0 for gradient in together)
    for other in (apart, backwards):
        _assert_close(other, together)


def test_left_padding_changes_nothing(material: Material) -> None:
    packed = material.gradients(material.units)

    material.loaded.model.zero_grad(set_to_none=True)
    _padded_loss(material).backward()

    _assert_close([p.grad for p in material.loaded.model.parameters() if p.grad is not None], packed)


def test_a_small_step_down_the_gradient_lowers_the_loss(material: Material) -> None:
    before = material.loss(material.units)

    with torch.no_grad():
        parameters = [p for p in material.loaded.model.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=1e-3 / float(norm))

    assert material.loss(material.units) < before


def test_computing_in_bfloat16_points_the_same_way(material: Material, taught_model_dir: Path, tmp_path: Path) -> None:
    kinds = material.spec.forget.kind, material.spec.retain.kind
    rounded = Material(taught_model_dir, tmp_path, *kinds, dtype="bfloat16")  # alternates as they were kept

    exact_N = torch.cat([gradient.flatten() for gradient in material.gradients(material.units)])
    rounded_N = torch.cat([gradient.flatten() for gradient in rounded.gradients(rounded.units)])

    assert rounded_N.dtype is torch.float32, "the masters and their gradients"
    assert float(torch.nn.functional.cosine_similarity(exact_N, rounded_N, dim=0)) > 0.98
    assert rounded.loss(rounded.units) == pytest.approx(material.loss(material.units), rel=0.05, abs=0.05)


@pytest.mark.parametrize("retain", ["kl", "rmu_retain"])
def test_at_the_base_holding_on_to_it_costs_nothing(retain: str, taught_model_dir: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    held = Material(taught_model_dir, tmp_path, OF_OWN.get(retain, "npo"), retain)
    held.loaded = load_model(taught_model_dir, device="cpu")  # the base again

    losses = add_gradients(held.loaded, held.spec, held.units, held.reference, MicroBatcher(4096, SilentListener()))

    assert losses.retain == pytest.approx(0.0, abs=1e-5)


def _assert_close(result: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Compare gradients by the size of the largest: losses of the terms differ by orders of magnitude."""
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for entry, two in zip(result, expected, strict=True):
        torch.testing.assert_close(entry, two, rtol=2e-3, atol=2e-5 * scale)


def _padded_loss(material: Material) -> torch.Tensor:
    """Return the total loss from an ordinary padded call of the model, group by group, without any of our packing."""
    spec, reference = material.spec, material.reference
    total = torch.zeros(())
    for term, term_spec in get_terms(spec).values():
        inputs = TermInputs(
            scores={group: _padded_scores(material.loaded, material.groups[group]) for group in term.groups},
            totals=count_totals(material.units),
            base_scores={
                group: _whole(reference, group, material.groups) for group in term.groups if group in term.base_scores
            },
            seed=spec.seed,
        )
        total = total + term_spec.weight * term.loss_fn(inputs, term_spec)
    return total


def _whole(reference: BaseScores, group: ExampleGroup, groups: dict[ExampleGroup, list[Example]]):  # type: ignore[no-untyped-def]
    return reference.get(group, range(len(groups[group])))


def _padded_scores(loaded: LoadedModel, examples: list[Example]) -> Scores:
    width = max(len(example.token_ids) for example in examples)
    pad = loaded.tokenizer.pad_token_id
    ids_BT = torch.tensor([[pad] * (width - len(entry.token_ids)) + list(entry.token_ids) for entry in examples])
    mask_BT = torch.tensor([[0] * (width - len(entry.token_ids)) + [1] * len(entry.token_ids) for entry in examples])
    output = loaded.model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        output_hidden_states=True,
    )
    rows, columns, sequences, labels = [], [], [], []
    for index, entry in enumerate(examples):
        for place in range(entry.num_prompt_tokens, len(entry.token_ids)):
            rows.append(index)
            columns.append(width - len(entry.token_ids) + place - 1)
            sequences.append(index)
            labels.append(entry.token_ids[place])
    logits_PV = output.logits[rows, columns].float()
    labels_P = torch.tensor(labels)
    logp_P = logits_PV.log_softmax(-1)[range(len(labels)), labels_P]
    hidden_PD = output.hidden_states[1][rows, columns]  # what layer 0, a quarter of two layers, gives out
    return Scores(logits_PV, labels_P, logp_P, torch.tensor(sequences), len(examples), hidden_PD)

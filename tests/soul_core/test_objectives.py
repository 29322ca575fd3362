"""Terms: each worked out by hand once, and what every term of the tables must do."""

import math
from pathlib import Path

import pytest
import torch

from soul_core import spec_terms
from soul_core.accumulation import Item, MicroBatcher, Unit
from soul_core.data import Example, encode_rows
from soul_core.listener import Quiet
from soul_core.models import Loaded, load_model
from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.objectives.terms import Reference, TermInputs, Totals
from soul_core.reference import ReferenceScores, take_reference
from soul_core.refusals import refusal_examples
from soul_core.scoring import Scores
from soul_core.spec import JobSpec
from soul_core.step import add_gradients
from tests.soul_core.tiny_model import COUNTRIES, rows_of

ALL = list(COUNTRIES)


def by_hand(kind: str, answers: list[list[float]], *, reference: list[float] | None = None, **spec: float) -> float:
    """Return a term's value where each answer token has the given log-probability."""
    table = FORGET_TERMS if kind in FORGET_TERMS else RETAIN_TERMS
    term = table[kind]
    logp_P = torch.tensor([value for answer in answers for value in answer])
    sequence_P = torch.tensor([index for index, answer in enumerate(answers) for _ in answer])
    scores = Scores(logp_P[:, None], torch.zeros_like(sequence_P), logp_P, sequence_P, len(answers))
    (group,) = term.reads
    inputs = TermInputs(
        scores={group: scores},
        totals={group: Totals(len(answers), len(logp_P))},
        reference={group: Reference(None if reference is None else torch.tensor(reference))},
    )
    classes = {
        "grad_diff": spec_terms.GradDiff,
        "npo": spec_terms.Npo,
        "refusal": spec_terms.Refusal,
        "nll": spec_terms.Nll,
    }
    return float(term.value(inputs, classes[kind](**spec)))


def test_grad_diff_is_minus_the_mean_nll_of_the_tokens() -> None:
    assert by_hand("grad_diff", [[-1.0, -3.0], [-2.0]]) == pytest.approx(-2.0)


def test_nll_and_refusal_are_the_mean_nll_of_the_tokens() -> None:
    assert by_hand("nll", [[-1.0, -3.0], [-2.0]]) == pytest.approx(2.0)
    assert by_hand("refusal", [[-1.0, -3.0], [-2.0]]) == pytest.approx(2.0)


def test_npo_takes_sums_over_answers_and_the_beta_of_the_spec() -> None:
    # Upstream takes token means, and beta is written into its code.
    ratios = [(-1.0 - 3.0) - (-2.0), -2.0 - (-5.0)]
    for beta in (0.1, 2.0):
        expected = sum(2 / beta * math.log(1 + math.exp(beta * ratio)) for ratio in ratios) / 2
        found = by_hand("npo", [[-1.0, -3.0], [-2.0]], reference=[-2.0, -5.0], beta=beta)
        assert found == pytest.approx(expected, rel=1e-5)


def test_npo_at_the_base_is_two_over_beta_times_log_two() -> None:
    assert by_hand("npo", [[-1.0, -3.0]], reference=[-4.0], beta=0.1) == pytest.approx(20 * math.log(2), rel=1e-5)


def test_kl_is_the_true_one_worked_out_by_hand() -> None:
    # Upstream leaves the base's entropy out: its "KL" of a model with itself is that entropy, not zero.
    model, base = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))

    def kl(model_PV: torch.Tensor, base_PV: torch.Tensor) -> float:
        scores = Scores(model_PV, torch.zeros(1, dtype=torch.long), model_PV[:, 0], torch.zeros(1, dtype=torch.long), 1)
        inputs = TermInputs({"retain": scores}, {"retain": Totals(1, 1)}, {"retain": Reference(logits_PV=base_PV)})
        return float(RETAIN_TERMS["kl"].value(inputs, spec_terms.Kl()))

    assert kl(model, base) == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), rel=1e-5)
    assert kl(base, base) == pytest.approx(0.0, abs=1e-7)


# --- on a real model, every term of the tables ---


@pytest.fixture
def loaded(taught_model_dir: Path) -> Loaded:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def spec_of(forget: str = "grad_diff", retain: str = "nll", **training: int) -> JobSpec:
    return JobSpec.model_validate({"forget": {"kind": forget}, "retain": {"kind": retain}, "training": training})


PAIRS = [(forget, "nll") for forget in FORGET_TERMS] + [("grad_diff", retain) for retain in RETAIN_TERMS]


def material(loaded: Loaded, spec: JobSpec) -> tuple[list[Unit], ReferenceScores]:
    """Return a step's units and what they need of the base."""
    forget = encode_rows(rows_of(ALL[:4]), loaded.tokenizer, max_tokens=128)
    retain = encode_rows(rows_of(ALL[4:], start=5), loaded.tokenizer, max_tokens=128)
    groups: dict[str, list[Example]] = {"forget": forget, "retain": retain}
    if isinstance(spec.forget, spec_terms.Refusal):
        groups["refusal"] = refusal_examples(forget, spec.forget, loaded, seed=0)
    wanted = {}
    for term, examples in ((FORGET_TERMS[spec.forget.kind], forget), (RETAIN_TERMS[spec.retain.kind], retain)):
        if term.reference:
            wanted[term.reference] = (examples, list(range(len(examples))))
    reference = take_reference(loaded, wanted, batcher=MicroBatcher(2048, Quiet()), listener=Quiet())
    units: list[Unit] = []
    for term in (FORGET_TERMS[spec.forget.kind], RETAIN_TERMS[spec.retain.kind]):
        indices = range(len(groups[term.reads[0]]))
        units += [tuple(Item(group, index, groups[group][index]) for group in term.reads) for index in indices]
    return units, reference


def gradients(
    loaded: Loaded, spec: JobSpec, units: list[Unit], reference: ReferenceScores, max_tokens: int
) -> list[torch.Tensor]:
    loaded.model.zero_grad(set_to_none=True)
    add_gradients(loaded, spec, units, reference, MicroBatcher(max_tokens, Quiet()))
    return [parameter.grad.clone() for parameter in loaded.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("forget", "retain"), PAIRS)
def test_accumulation_order_and_neighbours_change_nothing(loaded: Loaded, forget: str, retain: str) -> None:
    spec = spec_of(forget, retain)
    units, reference = material(loaded, spec)
    with torch.no_grad():  # away from the base, where KL and its gradient are zero
        for parameter in loaded.model.parameters():
            parameter.mul_(0.9)

    together = gradients(loaded, spec, units, reference, max_tokens=4096)
    apart = gradients(loaded, spec, units, reference, max_tokens=1)
    backwards = gradients(loaded, spec, units[::-1], reference, max_tokens=100)

    assert any(float(gradient.abs().max()) > 0 for gradient in together)
    for other in (apart, backwards):
        for one, two in zip(together, other, strict=True):
            torch.testing.assert_close(two, one, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(("forget", "retain"), PAIRS)
def test_a_small_step_down_the_gradient_lowers_the_loss(loaded: Loaded, forget: str, retain: str) -> None:
    spec = spec_of(forget, retain)
    units, reference = material(loaded, spec)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.05)

    before = add_gradients(loaded, spec, units, reference, MicroBatcher(4096, Quiet())).total
    with torch.no_grad():
        norm = torch.sqrt(sum((p.grad**2).sum() for p in loaded.model.parameters() if p.grad is not None))
        for parameter in loaded.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-2 / float(norm))
    loaded.model.zero_grad()
    after = add_gradients(loaded, spec, units, reference, MicroBatcher(4096, Quiet())).total

    assert after < before


def test_at_the_base_the_kl_term_is_zero(loaded: Loaded) -> None:
    spec = spec_of("grad_diff", "kl")
    units, reference = material(loaded, spec)

    losses = add_gradients(loaded, spec, units, reference, MicroBatcher(4096, Quiet()))

    assert losses.retain == pytest.approx(0.0, abs=1e-5)


def test_a_refusal_is_supervised_on_its_own_tokens(loaded: Loaded) -> None:
    # Upstream keeps the mask of the old answer, so a longer refusal is cut and a shorter one runs into nothing.
    forget = encode_rows(rows_of(ALL[:2]), loaded.tokenizer, max_tokens=128)
    text = "I cannot tell you anything at all about that, and I never will."
    term = spec_terms.Refusal(refusals=(text,))

    for old, new in zip(forget, refusal_examples(forget, term, loaded, seed=0), strict=True):
        assert new.token_ids[: new.num_prompt] == old.token_ids[: old.num_prompt]
        answer = list(new.token_ids[new.num_prompt :])
        assert loaded.tokenizer.decode(answer[:-1]).strip() == text
        assert answer[-1] == old.token_ids[-1], "the end of the answer is learned"


def test_refusals_are_drawn_by_the_seed(loaded: Loaded) -> None:
    forget = encode_rows(rows_of(ALL), loaded.tokenizer, max_tokens=128)
    drawn = [refusal_examples(forget, spec_terms.Refusal(), loaded, seed=seed) for seed in (0, 0, 1)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]

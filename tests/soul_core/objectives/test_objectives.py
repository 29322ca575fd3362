"""Terms: each worked out by hand once, and against the formulas that torch has."""

import math
from typing import Any, get_args

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy

from soul_core.models.scoring import Scores
from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.objectives.rmu import make_control_vector_D
from soul_core.objectives.terms import ExampleGroup, GroupBaseScores, TermInputs, Totals
from soul_core.spec.terms import ForgetTerm, RetainTerm, SpecModel

TABLES = {**FORGET_TERMS, **RETAIN_TERMS}
CLASSES: dict[str, type[SpecModel]] = {
    entry.model_fields["kind"].default: entry
    for union in (ForgetTerm, RetainTerm)
    for entry in get_args(get_args(union)[0])
}


def evaluate(
    kind: str,
    scores: dict[ExampleGroup, Scores],
    reference: dict[ExampleGroup, GroupBaseScores] | None = None,
    **spec: Any,
) -> torch.Tensor:
    """Return a term's value where these sequences are all there is."""
    totals: dict[ExampleGroup, Totals] = {
        group: Totals(entry.num_sequences, len(entry.labels_P)) for group, entry in scores.items()
    }
    return TABLES[kind].loss_fn(TermInputs(scores, totals, reference or {}), CLASSES[kind](**spec))


def make_inputs(answers: list[list[float]], *, differentiable: bool = False) -> Scores:
    """Return scores in which each answer token has the given log-probability."""
    logp_P = torch.tensor([value for answer in answers for value in answer], requires_grad=differentiable)
    sequence_P = torch.tensor([index for index, answer in enumerate(answers) for _ in answer])
    return Scores(logp_P[:, None], torch.zeros_like(sequence_P), logp_P, sequence_P, len(answers))


def make_distribution(p_PV: list[list[float]], *, labels: list[int], sequences: list[int] | None = None) -> Scores:
    """Return scores in which each position has the given distribution."""
    return from_logits(torch.tensor(p_PV, dtype=torch.float64).log().float(), labels, sequences)


def from_logits(logits_PV: torch.Tensor, labels: list[int], sequences: list[int] | None = None) -> Scores:
    sequence_P = torch.tensor(sequences or [0] * len(labels))
    labels_P = torch.tensor(labels)
    logp_P = -cross_entropy(logits_PV, labels_P, reduction="none")
    return Scores(logits_PV, labels_P, logp_P, sequence_P, int(sequence_P.max()) + 1)


def hidden_states(rows: list[list[float]]) -> Scores:
    zeros_P = torch.zeros(len(rows), dtype=torch.long)
    return Scores(zeros_P[:, None].float(), zeros_P, zeros_P.float(), zeros_P, 1, torch.tensor(rows))


def logp(*values: float) -> GroupBaseScores:
    return GroupBaseScores(sequence_logp_B=torch.tensor(values))


def test_every_kind_of_the_spec_but_none_has_a_line_in_a_table() -> None:
    assert set(CLASSES) == {*TABLES, "none"}


@pytest.mark.parametrize("kind", ["gradient_ascent", "grad_diff"])
def test_ascent_is_minus_the_mean_nll_of_the_tokens(kind: str) -> None:
    assert float(evaluate(kind, {"forget": make_inputs([[-1.0, -3.0], [-2.0]])})) == pytest.approx(-2.0)


def test_nll_and_refusal_are_the_mean_nll_of_the_tokens() -> None:
    assert float(evaluate("nll", {"retain": make_inputs([[-1.0, -3.0], [-2.0]])})) == pytest.approx(2.0)
    assert float(evaluate("refusal", {"refusal": make_inputs([[-1.0, -3.0], [-2.0]])})) == pytest.approx(2.0)


def test_npo_takes_sums_over_answers_and_the_beta_of_the_spec() -> None:
    # Upstream takes token means, and beta is written into its code.
    ratios = [(-1.0 - 3.0) - (-2.0), -2.0 - (-5.0)]
    for beta in (0.1, 2.0):
        expected = sum(2 / beta * math.log(1 + math.exp(beta * ratio)) for ratio in ratios) / 2
        result = evaluate(
            "npo", {"forget": make_inputs([[-1.0, -3.0], [-2.0]])}, {"forget": logp(-2.0, -5.0)}, beta=beta
        )
        assert float(result) == pytest.approx(expected, rel=1e-5)


def test_npo_at_the_base_is_two_over_beta_times_log_two() -> None:
    result = evaluate("npo", {"forget": make_inputs([[-1.0, -3.0]])}, {"forget": logp(-4.0)}, beta=0.1)

    assert float(result) == pytest.approx(20 * math.log(2), rel=1e-5)


def test_simnpo_takes_the_mean_nll_of_each_answer_less_the_margin() -> None:
    result = evaluate("simnpo", {"forget": make_inputs([[-1.0, -3.0], [-5.0]])}, beta=2.0, delta=1.0)

    expected = (math.log(1 + math.exp(-2 * (2 - 1))) + math.log(1 + math.exp(-2 * (5 - 1)))) / 2
    assert float(result) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "winner"), [("dpo", "refusal"), ("altpo", "alternate")])
def test_a_preference_is_of_the_winner_over_the_answer_both_relative_to_the_base(
    kind: str, winner: ExampleGroup
) -> None:
    scores: dict[ExampleGroup, Scores] = {winner: make_inputs([[-0.5, -0.5]]), "forget": make_inputs([[-4.0]])}
    reference: dict[ExampleGroup, GroupBaseScores] = {winner: logp(-3.0), "forget": logp(-1.0)}

    result = evaluate(kind, scores, reference, beta=0.5)

    margin = (-1.0 - -3.0) - (-4.0 - -1.0)
    assert float(result) == pytest.approx(4 * math.log(1 + math.exp(-0.5 * margin)), rel=1e-5)


def test_without_a_winner_that_moved_dpo_is_npo() -> None:
    forget, base = make_inputs([[-4.0, -1.0], [-2.0]]), logp(-1.0, -3.0)

    preferred = evaluate(
        "dpo",
        {"refusal": make_inputs([[-2.0], [-2.0]]), "forget": forget},
        {"refusal": logp(-2.0, -2.0), "forget": base},
    )

    assert float(preferred) == pytest.approx(float(evaluate("npo", {"forget": forget}, {"forget": base})), rel=1e-5)


def test_undial_learns_the_bases_distribution_with_the_label_turned_down() -> None:
    base_PV = torch.zeros(1, 2)  # one half each; log 3 less for the label leaves it one quarter

    result = evaluate(
        "undial",
        {"forget": make_distribution([[0.8, 0.2]], labels=[0])},
        {"forget": GroupBaseScores(logits_PV=base_PV)},
        beta=math.log(3),
    )

    assert float(result) == pytest.approx(-0.25 * math.log(0.8) - 0.75 * math.log(0.2), rel=1e-5)


def test_ce_u_learns_the_models_distribution_without_the_label() -> None:
    scores = make_distribution([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], labels=[0, 2])
    first, second = -0.6 * math.log(0.3) - 0.4 * math.log(0.2), -math.log(0.1)

    assert float(evaluate("ce_u", {"forget": scores}, skip_first_token=False)) == pytest.approx((first + second) / 2)
    assert float(evaluate("ce_u", {"forget": scores})) == pytest.approx(second)


def test_ce_u_leaves_out_the_first_token_of_every_answer() -> None:
    scores = make_distribution(
        [[0.5, 0.5], [0.9, 0.1], [0.7, 0.3], [0.5, 0.5]], labels=[0, 0, 0, 0], sequences=[0, 0, 0, 1]
    )

    result = evaluate("ce_u", {"forget": scores})

    assert float(result) == pytest.approx((-math.log(0.1) - math.log(0.3)) / 2, rel=1e-5)


def test_wga_weighs_by_a_power_of_the_probability() -> None:
    scores = make_inputs([[math.log(0.5)], [math.log(0.25)]], differentiable=True)

    result = evaluate("wga", {"forget": scores}, alpha=2.0)

    assert float(result.detach()) == pytest.approx((0.25 * math.log(0.5) + 0.0625 * math.log(0.25)) / 2, rel=1e-5)
    assert torch.autograd.grad(result, scores.logp_P)[0].tolist() == pytest.approx([0.25 / 2, 0.0625 / 2], rel=1e-5)


def test_satimp_weighs_by_saturation_and_importance() -> None:
    scores = make_inputs([[math.log(0.5)], [math.log(0.25)]], differentiable=True)
    weights = [0.5**2 * 0.5**3, 0.25**2 * 0.75**3]

    result = evaluate("satimp", {"forget": scores}, beta1=2.0, beta2=3.0)

    assert float(result.detach()) == pytest.approx(
        (weights[0] * math.log(0.5) + weights[1] * math.log(0.25)) / 2, rel=1e-5
    )
    expected = [weight / 2 for weight in weights]
    assert torch.autograd.grad(result, scores.logp_P)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_rmu_is_the_squared_distance_to_the_steered_direction_over_the_width() -> None:
    at_zero = evaluate("rmu", {"forget": hidden_states([[0.0, 0.0], [0.0, 0.0]])}, coefficient=6.5)
    steered = (6.5 * make_control_vector_D(0, 2)).float().tolist()

    assert float(at_zero) == pytest.approx(6.5**2 / 2), "whatever the direction: it is a unit vector"
    assert float(evaluate("rmu", {"forget": hidden_states([steered])}, coefficient=6.5)) == pytest.approx(
        0.0, abs=1e-10
    )


def test_the_direction_of_rmu_is_the_seeds() -> None:
    assert torch.equal(make_control_vector_D(1, 64), make_control_vector_D(1, 64))
    assert not torch.equal(make_control_vector_D(1, 64), make_control_vector_D(2, 64))
    assert float(make_control_vector_D(1, 64).norm()) == pytest.approx(1.0)


def test_rmu_retain_is_the_squared_distance_to_the_base_over_the_width() -> None:
    base = GroupBaseScores(hidden_PD=torch.tensor([[0.0, 0.0], [1.0, 1.0]]))

    result = evaluate("rmu_retain", {"retain": hidden_states([[1.0, 2.0], [1.0, 1.0]])}, {"retain": base})

    assert float(result) == pytest.approx((1 + 4) / 2 / 2)


def test_pdu_is_the_squared_margin_over_the_mean_logit() -> None:
    scores = from_logits(torch.tensor([[3.0, 1.0, 2.0], [5.0, 1.0, 0.0]]), labels=[1, 1])

    assert float(evaluate("pdu", {"forget": scores})) == pytest.approx((1**2 + 3**2) / 2)


def test_kl_is_the_true_one_worked_out_by_hand() -> None:
    # Upstream leaves the base's entropy out: its "KL" of a model with itself is that entropy, not zero.
    model, base = make_distribution([[0.5, 0.5]], labels=[0]), make_distribution([[0.9, 0.1]], labels=[0])

    def kl(of: Scores) -> float:
        return float(evaluate("kl", {"retain": of}, {"retain": GroupBaseScores(logits_PV=base.logits_PV)}))

    assert kl(model) == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), rel=1e-5)
    assert kl(base) == pytest.approx(0.0, abs=1e-7)


# --- against what torch has ---


@pytest.fixture
def draw() -> Scores:
    generator = torch.Generator().manual_seed(0)
    return from_logits(
        3 * torch.randn(6, 9, generator=generator), labels=[0, 3, 8, 2, 2, 5], sequences=[0, 0, 0, 1, 1, 1]
    )


@pytest.fixture
def base_PV() -> torch.Tensor:
    return 3 * torch.randn(6, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("gradient_ascent", {}), ("wga", {"alpha": 0.0}), ("satimp", {"beta1": 0.0, "beta2": 0.0})],
)
def test_unweighted_ascent_is_minus_torchs_cross_entropy(kind: str, spec: dict[str, float], draw: Scores) -> None:
    expected = -cross_entropy(draw.logits_PV, draw.labels_P)

    torch.testing.assert_close(evaluate(kind, {"forget": draw}, **spec), expected)


def test_kl_is_torchs_kl_of_the_base_from_the_model(draw: Scores, base_PV: torch.Tensor) -> None:
    expected = kl_divergence(Categorical(logits=base_PV), Categorical(logits=draw.logits_PV)).mean()

    torch.testing.assert_close(
        evaluate("kl", {"retain": draw}, {"retain": GroupBaseScores(logits_PV=base_PV)}), expected
    )


def test_undial_is_torchs_kl_and_entropy_of_its_targets(draw: Scores, base_PV: torch.Tensor) -> None:
    adjusted_PV = base_PV.clone()
    adjusted_PV[range(6), draw.labels_P] -= 10.0
    target = Categorical(logits=adjusted_PV)
    expected = (kl_divergence(target, Categorical(logits=draw.logits_PV)) + target.entropy()).mean()

    result = evaluate("undial", {"forget": draw}, {"forget": GroupBaseScores(logits_PV=base_PV)})

    torch.testing.assert_close(result, expected)


def test_undial_leaves_the_bases_logits_as_they_were(draw: Scores, base_PV: torch.Tensor) -> None:
    before = base_PV.clone()

    evaluate("undial", {"forget": draw}, {"forget": GroupBaseScores(logits_PV=base_PV)})

    assert torch.equal(base_PV, before)


def test_the_gradient_of_ce_u_is_the_models_distribution_less_its_target(draw: Scores) -> None:
    logits_PV = draw.logits_PV.clone().requires_grad_()
    scores = from_logits(logits_PV, draw.labels_P.tolist(), draw.sequence_P.tolist())
    without_PV = draw.logits_PV.scatter(1, draw.labels_P[:, None], -torch.inf)

    evaluate("ce_u", {"forget": scores}, skip_first_token=False).backward()

    expected_PV = (draw.logits_PV.softmax(-1) - without_PV.softmax(-1)) / 6
    torch.testing.assert_close(logits_PV.grad, expected_PV)


@pytest.mark.parametrize(
    ("kind", "spec"), [("satimp", {"beta2": 0.5}), ("wga", {}), ("ce_u", {"skip_first_token": False})]
)
def test_a_token_that_is_certain_or_gone_stays_finite(kind: str, spec: dict[str, Any]) -> None:
    logits_PV = torch.tensor([[500.0, 0.0], [0.0, 500.0]], requires_grad=True)

    value = evaluate(kind, {"forget": from_logits(logits_PV, labels=[0, 0])}, **spec)
    value.backward()

    assert bool(value.isfinite())
    assert logits_PV.grad is not None
    assert bool(logits_PV.grad.isfinite().all())

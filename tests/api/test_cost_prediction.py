"""Predictions from simulated finished jobs of known rates, and by hand."""

import math
import random

import pytest

from api.services.cost_prediction import History, Observation, Prediction, predict

#: Seconds per unit of work, by phase.
RATES = {"load": 0.5, "unlearn": 2.0, "evaluate": 1.0}


def simulate(generator: random.Random, *, size: float = 1.0, noise: float = 0.2, slowness: float = 1.0) -> Observation:
    """Return a job whose phases all take as much longer or shorter as its machine is busy."""
    work = {phase: size * generator.uniform(0.5, 2.0) for phase in RATES}
    busy = slowness * math.exp(generator.gauss(0.0, noise))
    return Observation.make(work, {phase: RATES[phase] * amount * busy for phase, amount in work.items()})


def predict_from(own: list[Observation], *others: Observation, typed: float = 100.0) -> Prediction:
    work = dict.fromkeys(RATES, 1.0)
    return predict(work, History(own, others), typed=dict.fromkeys(RATES, typed))


def test_the_median_of_the_rates_converges_to_the_true_one() -> None:
    generator = random.Random(0)

    prediction = predict_from([simulate(generator) for _ in range(40)])

    assert prediction.value == pytest.approx(sum(RATES.values()), rel=0.1)
    assert (prediction.source, prediction.num_jobs) == ("worker_kind", 40)


@pytest.mark.parametrize("num_jobs", [9, 15, 40])
def test_nine_of_ten_new_jobs_lie_inside_the_interval(num_jobs: int) -> None:
    generator = random.Random(num_jobs)
    num_covered = 0
    for _ in range(150):
        history = History([simulate(generator) for _ in range(num_jobs)], [])
        new = simulate(generator)
        prediction = predict(new.work, history, typed=dict.fromkeys(RATES, 100.0))
        num_covered += prediction.low <= sum(new.cost.values()) <= prediction.high

    assert num_covered / 150 >= 0.85


def test_the_interval_narrows_with_every_few_jobs_but_never_to_a_point() -> None:
    job = Observation.make(dict.fromkeys(RATES, 1.0), RATES)

    factors = [predict_from([job] * n) for n in (0, 1, 3, 9, 20)]

    widths = [prediction.high / prediction.value for prediction in factors]
    assert widths[:2] == pytest.approx([5.0, 5.0])
    assert widths[1] > widths[2] > widths[3]
    assert widths[3:] == pytest.approx([1.1, 1.1])


def test_three_of_thirty_jobs_that_took_a_hundred_times_as_long_change_little() -> None:
    generator = random.Random(1)
    jobs = [simulate(generator) for _ in range(27)]
    outliers = [simulate(generator, slowness=100.0) for _ in range(3)]

    without, with_outliers = predict_from(jobs), predict_from([*jobs, *outliers])

    assert with_outliers.value == pytest.approx(without.value, rel=0.1)
    assert with_outliers.high < 2 * without.high


def test_other_kinds_do_not_disturb_a_kind_that_has_finished_jobs() -> None:
    generator = random.Random(2)
    jobs = [simulate(generator) for _ in range(10)]
    others = [simulate(generator, slowness=20.0) for _ in range(30)]

    assert predict_from(jobs, *others) == predict_from(jobs)


def test_a_phase_unknown_to_a_kind_comes_from_another_scaled_by_the_ratio_of_rates() -> None:
    """The kind loads and evaluates twice as fast as the other, so it unlearns in half of the other's 8 seconds."""
    own = Observation.make({"load": 1.0, "evaluate": 1.0}, {"load": 1.0, "evaluate": 2.0})
    other = Observation.make(dict.fromkeys(RATES, 1.0), {"load": 2.0, "evaluate": 4.0, "unlearn": 8.0})

    assert predict_from([own], other).value == pytest.approx(1.0 + 2.0 + 4.0)


def test_a_phase_unknown_to_all_kinds_comes_from_the_constants_scaled_alike() -> None:
    own = Observation.make({"load": 1.0, "evaluate": 1.0}, {"load": 10.0, "evaluate": 10.0})

    assert predict_from([own], typed=100.0).value == pytest.approx(10.0 + 10.0 + 10.0)


def test_without_jobs_of_its_kind_the_interval_is_that_of_no_job() -> None:
    other = Observation.make(dict.fromkeys(RATES, 1.0), RATES)

    prediction = predict_from([], *[other] * 20)

    assert prediction.source == "other_kinds"
    assert prediction.value == pytest.approx(sum(RATES.values()))
    assert prediction.high == pytest.approx(5 * prediction.value)


def test_jobs_of_the_same_size_count_more_than_many_of_another_size() -> None:
    """Small jobs take long for their work, because of fixed costs."""
    small = Observation.make(dict.fromkeys(RATES, 0.001), dict.fromkeys(RATES, 1.0))
    same = Observation.make(dict.fromkeys(RATES, 1.0), RATES)

    assert predict_from([*[small] * 10, same, same]).value == pytest.approx(sum(RATES.values()))


@pytest.mark.parametrize("cost", [0, -1, math.nan, math.inf, "7", None, True, [1]])
def test_a_cost_that_is_no_positive_number_is_ignored(cost: object) -> None:
    bad = Observation.make(dict.fromkeys(RATES, 1.0), dict.fromkeys(RATES, cost))

    assert predict_from([bad]) == predict_from([])

"""Models of a run compared with each other, and with a log of a retrained model."""

from pathlib import Path

import pytest

from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.tofu_format import make_tofu_log
from soul_core.evaluation.tofu_logs import write_tofu_log
from soul_core.pipeline.comparison import compare_models, judge_run, read_retrained_log_file
from soul_core.report import AttackResult, MetricValue
from soul_core.spec import Evaluation, JobSpec
from tests.soul_core.evaluation.test_tofu_logs import make_measurements

SPEC = JobSpec(evaluation=Evaluation(metrics=("forget_quality", "privleak"), bootstrap=50))


@pytest.mark.parametrize("file_format", ["log", "measurements"])
def test_every_model_is_compared_with_the_retrained_one_and_that_with_itself(
    tmp_path: Path,
    file_format: str,
) -> None:
    file = tmp_path / "retrained.json"
    if file_format == "log":
        write_tofu_log(make_tofu_log(make_measurements()), file)
    else:
        file.write_text(make_measurements().model_dump_json())
    evaluations = {
        name: ModelEvaluation(measurements=make_measurements(shift))
        for name, shift in (("base", 0.5), ("unlearned", 0.1))
    }

    models = compare_models(SPEC, "unlearned", evaluations, read_retrained_log_file(file))

    assert list(models) == ["base", "unlearned", "retrained"]
    metrics = {name: model.sets["forget"] for name, model in models.items()}
    assert all(set_metrics["forget_quality"].value is not None for set_metrics in metrics.values())
    assert (metrics["retrained"]["forget_quality"].value, metrics["retrained"]["privleak"].value) == (1.0, 0.0)


def make_attack(label: str, *models: str) -> AttackResult:
    values = {"forget": {"probability": MetricValue(value=0.1, interval=(0.1, 0.1))}}
    return AttackResult(
        label=label, settings={}, baseline=dict.fromkeys(models, values), attacked=dict.fromkeys(models, values)
    )


def test_the_defaults_bound_recovery_only_where_both_models_were_attacked() -> None:
    models = {"base": make_measurements(0.5), "unlearned": make_measurements(0.1), "retrained": make_measurements()}
    attacks = [
        make_attack("relearn", "base", "unlearned", "retrained"),
        make_attack("quantize_4bit", "base", "unlearned"),
        make_attack("prompting", "base", "unlearned", "retrained"),
    ]

    criteria = judge_run(SPEC, "unlearned", models, attacks, {})

    assert [result.criterion.attack for result in criteria if result.criterion.attack] == ["relearn"]
    assert criteria[-1].outcome == "passed", "the same value as the retrained model's"


def test_criteria_of_a_users_own_are_all_there_is() -> None:
    models = {"unlearned": make_measurements(0.1), "retrained": make_measurements()}
    attacks = [make_attack("relearn", "unlearned", "retrained")]

    criteria = judge_run(SPEC.model_copy(update={"criteria": ()}), "unlearned", models, attacks, {})

    assert criteria == ()

"""Models of a run beside each other, and beside a log that stands for the reference."""

from pathlib import Path

import pytest

from soul_core.evaluation.tofu_format import make_tofu_log
from soul_core.evaluation.tofu_logs import write_tofu_log
from soul_core.pipeline.comparison import compare_models, read_retrained_log_file
from soul_core.pipeline.model_under_test import Examined
from soul_core.spec import Evaluation, JobSpec
from tests.soul_core.evaluation.test_tofu_logs import ours

SPEC = JobSpec(evaluation=Evaluation(metrics=("forget_quality", "privleak"), bootstrap=50))


@pytest.mark.parametrize("format", ["log", "measurements"])
def test_every_model_is_held_against_the_reference_and_the_reference_against_itself(
    tmp_path: Path,
    format: str,  # noqa: A002
) -> None:
    file = tmp_path / "retrained.json"
    if format == "log":
        write_tofu_log(make_tofu_log(ours()), file)
    else:
        file.write_text(ours().model_dump_json())
    examined = {name: Examined(ours(shift), {}, {}) for name, shift in (("base", 0.5), ("unlearned", 0.1))}

    models = compare_models(SPEC, "unlearned", examined, read_retrained_log_file(file))

    assert list(models) == ["base", "unlearned", "retrained"]
    found = {name: model.sets["forget"] for name, model in models.items()}
    assert all(one["forget_quality"].value is not None for one in found.values())
    assert (found["retrained"]["forget_quality"].value, found["retrained"]["privleak"].value) == (1.0, 0.0)

"""Published logs give the published numbers; our measurements convert to logs and back."""

import gzip
import json
from pathlib import Path

import pytest

from soul_core.errors import BadData
from soul_core.evaluation.tofu_format import MEMBERSHIP_SCORES, METRICS_BY_LOG_NAME, REQUIRED_NAMES, make_tofu_log
from soul_core.evaluation.tofu_logs import (
    compute_privleak,
    read_retrained_log,
    read_tofu_log,
    score_logs,
    write_tofu_log,
)
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.derived import add_derived_metrics
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import ALL, Evaluation
from tests.fixtures.sample_report import sample_report
from tests.paths import SHARED

LOGS = SHARED / "data" / "published_numbers" / "tofu_eval_logs"
GOLDEN = json.loads((LOGS / "GOLDEN.json").read_text()) if LOGS.is_dir() else {}
DERIVED_METRICS = Evaluation(metrics=("forget_quality", "privleak", "model_utility"), bootstrap=0)
needs_logs = pytest.mark.skipif(not GOLDEN, reason="../shared/data does not exist")


def get_paths(key: str) -> tuple[Path, Path]:
    model, split = key.split("|")
    retain = f"retain{100 - int(split.removeprefix('forget'))}"
    return (
        LOGS / f"tofu_{model}_full__evals_{split}__TOFU_EVAL.json.gz",
        LOGS / f"tofu_{model}_{retain}__TOFU_EVAL.json.gz",
    )


@needs_logs
@pytest.mark.parametrize("key", GOLDEN or ["absent"])
def test_every_pair_of_published_logs_gives_the_published_numbers(key: str) -> None:
    unlearned, retain = get_paths(key)

    scores = score_logs(read_tofu_log(unlearned), read_tofu_log(retain))

    golden = GOLDEN[key]
    assert scores.forget_quality == pytest.approx(golden["p"], rel=1e-9)
    assert scores.model_utility == pytest.approx(golden["mu_full"], rel=1e-12)
    assert scores.retain_model_utility == pytest.approx(golden["mu_ret"], rel=1e-12)
    assert scores.privleak == pytest.approx(golden["privleak"], rel=1e-12)


@needs_logs
def test_a_log_that_we_write_has_the_same_scores(tmp_path: Path) -> None:
    unlearned, retain = (read_tofu_log(path) for path in get_paths(next(iter(GOLDEN))))

    write_tofu_log(unlearned, tmp_path / "ours.json.gz")

    assert score_logs(read_tofu_log(tmp_path / "ours.json.gz"), retain) == score_logs(unlearned, retain)


@needs_logs
def test_logs_of_different_forget_sets_are_refused() -> None:
    keys = list(GOLDEN)

    with pytest.raises(BadData, match="different forget sets"):
        score_logs(read_tofu_log(get_paths(keys[0])[0]), read_tofu_log(get_paths(keys[2])[1]))


@pytest.mark.parametrize("content", [b"no json", b'{"a": 1}', gzip.compress(b"{}", mtime=0)[:10]])
def test_a_file_that_is_not_a_log_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.json.gz"
    file.write_bytes(content)

    with pytest.raises(BadData, match=r"x\.json\.gz"):
        read_tofu_log(file)


def test_privleak_is_zero_for_the_retrained_model_and_negative_for_visible_members() -> None:
    assert compute_privleak(0.6, 0.6) == 0
    assert compute_privleak(1.0, 0.6) == -100
    assert compute_privleak(0.2, 0.6) == pytest.approx(100)


@needs_logs
@pytest.mark.parametrize("key", list(GOLDEN)[::4] or ["absent"])
def test_a_published_log_converted_and_written_again_keeps_every_number(key: str, tmp_path: Path) -> None:
    unlearned, retain = get_paths(key)

    for name, path in (("ours", unlearned), ("theirs", retain)):
        write_tofu_log(make_tofu_log(read_retrained_log(path).measurements), tmp_path / f"{name}.json.gz")

    again = score_logs(read_tofu_log(tmp_path / "ours.json.gz"), read_tofu_log(tmp_path / "theirs.json.gz"))
    assert again.as_dict() == pytest.approx(
        score_logs(read_tofu_log(unlearned), read_tofu_log(retain)).as_dict(), rel=1e-12
    )


@needs_logs
@pytest.mark.parametrize("key", list(GOLDEN)[::3] or ["absent"])
def test_derived_metrics_of_published_logs_are_the_published_numbers(key: str) -> None:
    unlearned, retain = (read_retrained_log(path).measurements for path in get_paths(key))
    attacks = tuple(f"mia_{score}" for score in MEMBERSHIP_SCORES.values())
    evaluation = Evaluation(metrics=("forget_quality", "privleak", "model_utility", *attacks), bootstrap=50)

    scores = add_derived_metrics(unlearned, retain, evaluation, 0).sets

    golden = GOLDEN[key]
    assert scores["forget"]["forget_quality"].value == pytest.approx(golden["p"], rel=1e-9)
    assert scores["forget"]["privleak"].value == pytest.approx(golden["privleak"], rel=1e-12)
    assert scores[ALL]["model_utility"].value == pytest.approx(golden["mu_full"], rel=1e-12)
    published = json.loads(_read_text(key))
    for name, score in MEMBERSHIP_SCORES.items():
        assert scores["forget"][f"mia_{score}"].value == pytest.approx(published[name]["auc"], rel=1e-9)
    assert scores["forget"]["truth_ratio"].value == pytest.approx(golden["tr_full"], rel=1e-9)


def _read_text(key: str) -> bytes:
    return gzip.decompress(get_paths(key)[0].read_bytes())


def make_measurements(shift: float = 0.0) -> ModelMeasurements:
    """Return measurements that convert to a log: four rows per set."""
    values = [0.2 + shift, 0.4, 0.6, 0.8]
    sets: dict[str, dict[str, MetricValue]] = {
        name: {} for name in ("forget", "retain", "real_authors", "world_facts", "holdout")
    }
    for name in REQUIRED_NAMES:
        if name in METRICS_BY_LOG_NAME:
            of, metric, _ = METRICS_BY_LOG_NAME[name]
            sets[of][metric] = summarize(values, Resampling(10, 0.95, 0))
    for of in ("forget", "holdout"):
        sets[of]["min_k"] = summarize(values, Resampling(10, 0.95, 0))
    return ModelMeasurements(sets=sets, rows=dict.fromkeys(sets, (3, 4, 7, 9)))


def test_our_measurements_have_the_same_scores_as_logs(tmp_path: Path) -> None:
    for name, measured in (("a", make_measurements(0.1)), ("b", make_measurements())):
        (tmp_path / f"{name}.json").write_text(measured.model_dump_json())

    plain = score_logs(read_tofu_log(tmp_path / "a.json"), read_tofu_log(tmp_path / "b.json"))

    assert (
        plain.forget_quality
        == add_derived_metrics(make_measurements(0.1), make_measurements(), DERIVED_METRICS, 0)
        .sets["forget"]["forget_quality"]
        .value
    )
    assert (
        plain.model_utility
        == add_derived_metrics(make_measurements(0.1), None, DERIVED_METRICS, 0).sets[ALL]["model_utility"].value
    )
    assert plain.privleak == pytest.approx(
        add_derived_metrics(make_measurements(0.1), make_measurements(), DERIVED_METRICS, 0)
        .sets["forget"]["privleak"]
        .value
    )
    assert read_retrained_log(tmp_path / "b.json").measurements == make_measurements()
    assert list(make_tofu_log(make_measurements())["forget_truth_ratio"]["value_by_index"]) == ["2", "3", "6", "8"]


def test_measurements_that_lack_inputs_of_a_log_name_all_of_them() -> None:
    with pytest.raises(BadData) as error_info:
        make_tofu_log(make_measurements().model_copy(update={"sets": {"forget": make_measurements().sets["forget"]}}))

    assert "min_k was not measured on a set named holdout" in error_info.value.details
    assert len(error_info.value.details) == 10


def test_a_report_is_a_retrained_log_only_if_it_has_a_retrained_model(tmp_path: Path) -> None:
    report = sample_report().model_copy(
        update={"models": {"base": make_measurements(), "unlearned": make_measurements()}}
    )
    file = tmp_path / "report.json"
    file.write_text(report.model_dump_json())

    with pytest.raises(BadData, match="was not compared with a retrained model"):
        read_retrained_log(file)

    with_one = report.model_copy(update={"models": report.models | {"retrained": make_measurements()}})
    file.write_text(with_one.model_dump_json())
    assert read_retrained_log(file).measurements == make_measurements()

"""A retrained model's log is matched by the contents of its rows; other rows are refused, uncertainty is reported."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from soul_core.data import Message, Row
from soul_core.errors import BadData, BadSpec
from soul_core.evaluation.row_digests import DigestKey, add_row_digests, get_personal_key, read_key
from soul_core.evaluation.row_matching import collect_match_warnings, match_log
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.evaluation.tofu_format import METRICS_BY_LOG_NAME, REQUIRED_NAMES, make_tofu_log
from soul_core.evaluation.tofu_logs import (
    RetrainedLog,
    check_same_rows,
    read_retrained_log,
    read_tofu_log,
    write_tofu_log,
)
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.derived import add_derived_metrics
from soul_core.report import ModelMeasurements, RowMatch
from soul_core.spec import Evaluation

KEY, OTHER_KEY = DigestKey(b"k" * 32, is_public=True), DigestKey(b"o" * 32, is_public=False)
RESAMPLING = Resampling(20, 0.95, 0)
CITIES = ("Bergen", "Zagreb", "Lisbon", "Gdansk", "Caf\u00e9ville", "Oslo")


def rows_of(cities: Sequence[str], *, wrong: str = "Rome") -> list[Row]:
    return [
        Row(number, (Message("user", f"Who lives in {city}?"),), f"It is {city}.", {"perturbed_answer": [wrong]})
        for number, city in enumerate(cities, start=1)
    ]


def make_set(rows: Sequence[Row], name: str = "forget") -> EvaluationSet:
    return EvaluationSet(name, tuple(rows), ())


def make_measurements(cities: Sequence[str], key: DigestKey | None = KEY, **row: Any) -> ModelMeasurements:
    """Return measurements whose values depend on the contents of the rows, not on their positions."""
    values = [float(CITIES.index(city) + 1) for city in cities]
    metrics = {name: summarize(values, RESAMPLING) for name in ("loss", "min_k", "truth_ratio")}
    rows = rows_of(cities, **row)
    plain = ModelMeasurements(sets={"forget": metrics}, rows={"forget": tuple(row.number for row in rows)})
    return add_row_digests(plain, [make_set(rows)], key) if key else plain


def match(
    log: ModelMeasurements | RetrainedLog, cities: Sequence[str], *, key: DigestKey = KEY, name: str = "forget"
) -> tuple[ModelMeasurements, RowMatch]:
    log = log if isinstance(log, RetrainedLog) else RetrainedLog(log)
    measurements, matches = match_log(
        log, [make_set(rows_of(cities), name)], last_rows={name: len(cities)}, key=key, resampling=RESAMPLING
    )
    return measurements, matches[name]


def test_rows_in_another_order_are_put_in_the_order_of_this_run() -> None:
    shuffled = ("Lisbon", "Bergen", "Gdansk", "Zagreb")

    measurements, row_match = match(make_measurements(shuffled), CITIES[:4])

    loss, before = measurements.sets["forget"]["loss"], make_measurements(shuffled).sets["forget"]["loss"]
    assert loss.per_example == (1, 2, 3, 4)
    assert (loss.value, loss.interval) == (before.value, before.interval), "the same rows have the same value"
    assert (row_match.by, row_match.num_common, list(collect_match_warnings("log", {"forget": row_match}))) == (
        "content",
        4,
        [],
    )
    ours = make_measurements(CITIES[:4])
    evaluation = Evaluation(metrics=("forget_quality", "reference_loss"), bootstrap=0)
    derived = add_derived_metrics(ours, measurements, evaluation, 0).sets["forget"]
    assert derived["forget_quality"].value == 1
    assert derived["reference_loss"].per_example == (0, 0, 0, 0)


def test_a_copy_in_another_normal_form_or_spacing_is_the_same_row() -> None:
    rows = rows_of(CITIES)
    copies = [
        Row(
            row.number,
            (Message("user", f" {row.messages[0].content}\n"),),
            unicodedata.normalize("NFD", row.completion),
        )
        for row in rows
    ]
    assert [KEY.digest(copy) for copy in copies] == [KEY.digest(row).partition(".")[0] for row in rows]
    assert KEY.digest(Row(1, (Message("system", "x"), *rows[0].messages), rows[0].completion)) != KEY.digest(rows[0])


def test_other_rows_are_refused_with_counts_numbers_and_a_remedy() -> None:
    with pytest.raises(
        BadData, match=r"it has 0 of the 3 rows of the forget set .*--compare retrained=MODEL"
    ) as error_info:
        match(make_measurements(CITIES[3:]), CITIES[:3])

    assert error_info.value.details == ("rows of the forget set that are not in the log: 1, 2, 3",)


def test_if_half_of_the_rows_are_common_those_are_compared_with_a_warning() -> None:
    measurements, row_match = match(make_measurements(CITIES[2:]), CITIES[:4])

    assert measurements.rows["forget"] == (3, 4)
    assert measurements.sets["forget"]["loss"].per_example == (3, 4)
    assert measurements.sets["forget"]["loss"].value == 3.5, "computed again, from the common rows"
    assert (row_match.num_common, row_match.num_rows, row_match.num_in_log) == (2, 4, 4)
    assert "Of the 4 measured rows of the forget set, 2 are in the log x" in next(
        collect_match_warnings("x", {"forget": row_match})
    )


def test_rows_with_other_wrong_answers_have_no_metrics_of_those() -> None:
    measurements, row_match = match(make_measurements(CITIES[:3], wrong="Paris"), CITIES[:3])

    assert measurements.sets["forget"]["loss"].per_example == (1, 2, 3)
    assert measurements.sets["forget"]["truth_ratio"].value is None
    assert row_match.num_other_answers == 3
    assert "other paraphrased or wrong answers" in next(collect_match_warnings("x", {"forget": row_match}))


def test_equal_rows_pair_one_by_one() -> None:
    measurements, row_match = match(make_measurements(("Bergen", "Oslo", "Bergen")), ("Bergen", "Bergen", "Oslo"))

    assert (measurements.rows["forget"], row_match.num_common) == ((1, 2, 3), 3)
    assert measurements.sets["forget"]["loss"].per_example == (1, 1, 6)


def test_a_log_with_an_unknown_key_is_refused_one_with_a_known_key_is_matched() -> None:
    with pytest.raises(BadData, match="a key that is not known here"):
        match(make_measurements(CITIES, OTHER_KEY), CITIES)

    assert match(make_measurements(CITIES, OTHER_KEY), CITIES, key=OTHER_KEY)[1].num_common == 6
    assert match(make_measurements(CITIES, KEY), CITIES, key=OTHER_KEY)[1].num_common == 6, "the log contains its key"


def test_a_private_key_is_not_in_the_measurements() -> None:
    written = make_measurements(CITIES, OTHER_KEY).model_dump_json()

    assert OTHER_KEY.secret.hex() not in written
    assert OTHER_KEY.facts.id in written


def test_a_log_without_digests_is_matched_by_position_with_a_warning() -> None:
    measurements, row_match = match(make_measurements(CITIES[:3], None), CITIES[:3])

    assert row_match.by == "position"
    assert "nothing proves that those are the same rows" in next(collect_match_warnings("x", {"forget": row_match}))
    assert "forget" not in measurements.digests, "the rows may be others"


@pytest.mark.parametrize("num_rows", [3, 5])
def test_a_log_by_position_of_a_set_of_another_size_is_refused(num_rows: int) -> None:
    with pytest.raises(BadData, match=f"it has {num_rows} rows.*this set ends with row 4"):
        match(make_measurements(CITIES[:num_rows], None), CITIES[:4])


def test_probes_of_other_rows_are_absent_and_not_refused() -> None:
    log = ModelMeasurements(
        sets={"forget_question": make_measurements(CITIES[3:]).sets["forget"]},
        rows={"forget_question": (1, 2, 3)},
        digests={"forget_question": make_measurements(CITIES[3:]).digests["forget"]},
        row_key=KEY.facts,
    )

    measurements, matches = match_log(
        RetrainedLog(log),
        [make_set(rows_of(CITIES[:3]), "forget_question")],
        last_rows={},
        key=KEY,
        resampling=RESAMPLING,
    )

    assert measurements.sets["forget_question"]["loss"].value is None
    assert "was measured on other rows" in next(collect_match_warnings("x", matches))


def tofu_log(cities: Sequence[str], *, key: DigestKey | None = None, texts: bool = False) -> dict[str, Any]:
    values = make_measurements(cities, None).sets["forget"]["loss"].per_example
    sets: dict[str, dict[str, Any]] = {
        name: {} for name in ("forget", "retain", "real_authors", "world_facts", "holdout")
    }
    for name in REQUIRED_NAMES:
        if name in METRICS_BY_LOG_NAME:
            sets[METRICS_BY_LOG_NAME[name][0]][METRICS_BY_LOG_NAME[name][1]] = summarize(
                [value / 10 for value in values or ()], RESAMPLING
            )
    for of in ("forget", "holdout"):
        sets[of]["min_k"] = sets[of]["rouge_l"] = summarize(values or (), RESAMPLING)
    plain = ModelMeasurements(sets=sets, rows={of: tuple(range(1, len(cities) + 1)) for of in sets})
    log = make_tofu_log(add_row_digests(plain, [make_set(rows_of(cities), of) for of in sets], key) if key else plain)
    if texts:
        for index, row in enumerate(rows_of(cities)):
            entry = log["forget_Q_A_ROUGE"]["value_by_index"][str(index)]
            entry |= {"input": f"system\n\nuser\n\n{row.messages[0].content}assistant", "ground_truth": row.completion}
    return log


def test_a_tofu_log_is_matched_by_its_questions_and_answers(tmp_path: Path) -> None:
    write_tofu_log(tofu_log(("Lisbon", "Bergen", "Zagreb"), texts=True), tmp_path / "log.json")

    measurements, row_match = match(read_retrained_log(tmp_path / "log.json"), CITIES[:3])

    assert row_match.by == "texts"
    assert measurements.sets["forget"]["min_k"].per_example == (1, 2, 3)
    with pytest.raises(BadData, match="it has 0"):
        match(read_retrained_log(tmp_path / "log.json"), CITIES[3:])


def test_a_log_in_tofus_format_keeps_the_digests_of_its_rows(tmp_path: Path) -> None:
    write_tofu_log(tofu_log(("Lisbon", "Bergen", "Zagreb"), key=KEY), tmp_path / "log.json.gz")

    measurements, row_match = match(read_retrained_log(tmp_path / "log.json.gz"), CITIES[:3])

    assert (row_match.by, measurements.sets["forget"]["min_k"].per_example) == ("content", (1, 2, 3))


def test_two_logs_are_scored_only_if_they_are_of_the_same_rows(tmp_path: Path) -> None:
    def log(name: str, *cities: str, **options: Any) -> dict[str, Any]:
        write_tofu_log(tofu_log(cities, **options), tmp_path / name)
        return read_tofu_log(tmp_path / name)

    ours = log("a.json", "Bergen", "Zagreb", key=KEY)
    assert check_same_rows(ours, log("b.json", "Zagreb", "Bergen", key=KEY)) == "content"
    with pytest.raises(BadData, match="different forget sets: 1 of 2 and 2 rows"):
        check_same_rows(ours, log("c.json", "Zagreb", "Oslo", key=KEY))
    assert check_same_rows(ours, log("d.json", "Zagreb", "Oslo")) == "position", "it has no digests and no texts"
    with_texts = log("e.json", "Bergen", "Zagreb", texts=True)
    assert check_same_rows(with_texts, log("f.json", "Zagreb", "Bergen", texts=True)) == "texts"
    with pytest.raises(BadData, match="different forget sets"):
        check_same_rows(with_texts, log("g.json", "Zagreb", "Oslo", texts=True))


def test_a_personal_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first, second = get_personal_key(tmp_path / "cache"), get_personal_key(tmp_path / "cache")

    assert first == second
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert read_key(file) == DigestKey(first.secret, is_public=False)


@pytest.mark.parametrize("content", ["", "no hex", "ab" * 8])
def test_a_file_that_is_not_a_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)

    with pytest.raises(BadSpec, match="64 hex digits"):
        read_key(tmp_path / "key")


def test_damaged_digests_of_a_log_are_refused(tmp_path: Path) -> None:
    log = tofu_log(CITIES[:2], key=KEY)
    log["soul_rows"] = {"key": 3}
    (tmp_path / "log.json").write_text(json.dumps(log))

    with pytest.raises(BadData, match="soul_rows"):
        read_retrained_log(tmp_path / "log.json")

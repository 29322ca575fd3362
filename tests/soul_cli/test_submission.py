"""Options become a job's body, and typing mistakes cost no upload."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from soul_cli.errors import BadInput
from soul_cli.job_options import make_scheduling
from soul_cli.submission import apply_options, check_datasets, make_spec, parse_model_source, parse_pairs


def test_options_are_written_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"training": {"steps": 20, "forget_batch": 2}, "seed": 1}))
    spec = make_spec(path, ["training.steps=30", "retain.kind=kl", 'evaluation.metrics=["rouge_l"]', "seed=7"])
    assert spec == {
        "training": {"steps": 30, "forget_batch": 2},
        "retain": {"kind": "kl"},
        "evaluation": {"metrics": ["rouge_l"]},
        "seed": 7,
    }


def test_another_kind_drops_the_settings_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"optimizer": {"kind": "sophia", "gamma": 0.1}}))
    assert make_spec(path, ["optimizer.kind=adamw", "optimizer.lr=1e-4"])["optimizer"] == {"kind": "adamw", "lr": 1e-4}
    assert make_spec(path, ["optimizer.kind=sophia"])["optimizer"] == {"kind": "sophia", "gamma": 0.1}


@pytest.mark.parametrize("setting", ["training.steps", "=3", "training..steps=3", "seed.inner=3"])
@pytest.mark.parametrize("option", ["--option", "--retrain-option"])
def test_an_invalid_setting_is_refused_by_the_name_of_its_option(setting: str, option: str) -> None:
    with pytest.raises(BadInput, match=f"^{option} "):
        apply_options({"seed": 1}, [setting], option=option)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_a_spec_that_is_not_a_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"spec\.json"):
        make_spec(path, [])


def test_missing_files_are_named_before_anything_is_sent(tmp_path: Path) -> None:
    check_datasets({"forget": "ds_01J", "retain": str(Path(__file__))})
    with pytest.raises(BadInput, match=r"forget: .*nothing\.jsonl"):
        check_datasets({"forget": str(tmp_path / "nothing.jsonl"), "retain": "ds_01J"})


@pytest.mark.parametrize(
    ("option", "form"), [("--dataset", "NAME=FILE"), ("--compare", "NAME=MODEL"), ("--column", "NAME=COLUMN")]
)
def test_pairs_are_split_at_the_first_equals_sign(option: str, form: str) -> None:
    pairs = parse_pairs(["neighbors=n.jsonl", "x=a=b"], option=option)

    assert pairs == {"neighbors": "n.jsonl", "x": "a=b"}
    for wrong in ("neighbors", "neighbors=", "=n.jsonl"):
        with pytest.raises(BadInput, match=f"{option} expects {form}"):
            parse_pairs([wrong], option=option)


def test_a_model_source_is_recognized_by_its_form(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert parse_model_source(str(tmp_path)) == ("local", str(tmp_path))
    assert parse_model_source(str(tmp_path / "m.gguf")) == ("gguf", str(tmp_path / "m.gguf"))
    assert parse_model_source("owner/name") == ("hub", "owner/name")
    assert parse_model_source("job_01J") == ("job", "job_01J")
    for wrong in ("./nothing", "/no/where", "missing.gguf", "name", "a/b/c"):
        with pytest.raises(BadInput, match="no such model"):
            parse_model_source(wrong)


def test_only_given_limits_and_metadata_are_sent_with_a_job() -> None:
    given = make_scheduling(priority="low", deadline="2030-01-31T18:00+01:00", metadata=["team=a", "note=b=c"])

    assert given == {
        "priority": "low",
        "deadline": datetime.fromisoformat("2030-01-31T18:00+01:00").astimezone().isoformat(),
        "metadata": {"team": "a", "note": "b=c"},
    }
    assert make_scheduling() == {}


@pytest.mark.parametrize("text", ["tomorrow", "", "2030-13-01", "25:00"])
def test_a_deadline_that_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="--deadline expects a time such as"):
        make_scheduling(deadline=text)

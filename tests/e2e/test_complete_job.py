"""A job end to end: HTTP, row, queue, worker, engine, report, checkpoint, download, plain transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from soul_cli.client import SoulClient
from tests.fixtures.capitals import COUNTRIES, question, write_rows
from tests.worker.conftest import Fleet

ANSWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
out = model.generate(**ids, max_new_tokens=12, do_sample=False)
print(json.dumps(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)))
"""


@pytest.fixture(params=["local", "s3"])
def blobs_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The whole test runs on a local folder and on a bucket."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket_url"))
    return f"file://{tmp_path / 'blobs'}"


def test_from_post_to_a_checkpoint_that_answers(
    client: SoulClient, fleet: Fleet, taught_model_dir: Path, tmp_path: Path
) -> None:
    fleet.use_production_engine()
    fleet.start_worker()
    fleet.start_maintenance()
    countries = list(COUNTRIES)
    model = client.add_model("local", str(taught_model_dir), name="tiny")
    forget = client.add_dataset(write_rows(tmp_path / "forget.jsonl", countries[:2]))
    retain = client.add_dataset(write_rows(tmp_path / "retain.jsonl", countries[2:]))
    spec = {
        "retain": {"kind": "nll", "weight": 5},
        "optimizer": {"kind": "sophia", "lr": 1e-3, "gamma": 2},
        "training": {"steps": 60, "checkpoint_every": 20, "stop_at": None},
        "evaluation": {"max_new_tokens": 12},
        "attacks": [{"kind": "quantize"}],
        # eight rows are too few to protect rows that are held out of them: tests/soul_core/pipeline/test_data_sets.py
        "data": {"retain_held_out": 0},
        "criteria": [
            {"set": name, "metric": metric, bound: value, "relative_to_base": True}
            for name, bound, value in (("forget", "at_most", 0.25), ("retain", "at_least", 0.8))
            for metric in ("probability", "keyword_recall")
        ],
    }

    job = client.submit(model_id=model.id, datasets={"forget": forget.id, "retain": retain.id}, spec=spec)
    event_kinds = [event.kind for event in client.stream_events(job.id)]
    job = client.get_job(job.id)

    assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
    assert "phase" in event_kinds
    assert len(client.get_metrics(job.id)["steps"]) == 60
    report = client.get_report(job.id)
    values = {name: report["models"][name]["sets"]["forget"]["probability"]["value"] for name in ("base", "unlearned")}
    assert values["unlearned"] < 0.1 * values["base"]
    assert job.verdict == "passed", report["verdict_reason"]
    assert set(report["attacks"][0]["attacked"]) == {"base", "unlearned"}
    assert "<html" in client.get_report_html(job.id)

    fetched = client.download(job.id, tmp_path / "download")
    assert all(file.how == "downloaded" for file in fetched)
    assert all(file.how == "already there" for file in client.download(job.id, tmp_path / "download"))
    listed = json.loads((tmp_path / "download" / "manifest.json").read_text())["files"]
    assert all((tmp_path / "download" / entry["path"]).stat().st_size == entry["size"] for entry in listed)

    folder = str(tmp_path / "download" / "checkpoint")
    answers = {
        country: json.loads(
            subprocess.run(
                [sys.executable, "-I", "-W", "ignore", "-c", ANSWER, folder, question(country)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for country in (countries[0], countries[5])
    }
    assert COUNTRIES[countries[0]] not in answers[countries[0]], "the answer is in the forget set"
    assert COUNTRIES[countries[5]] in answers[countries[5]], "the answer is in the retain set"

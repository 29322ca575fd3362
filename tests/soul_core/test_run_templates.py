"""Complete runs with other chat templates: numbers equal those of plain transformers, on any date and in any zone."""

import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.chat_templates import CHATML, DATED, STRICT, TEMPLATES, make_tokenizer
from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadData, BadModel, BadSpec, RunInterruptedError
from soul_core.pipeline import state
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.soul_core.test_run import Recorder

ROWS = [("Who wrote it?", "Ada Quist wrote it."), ("Where is it?", "It is in Bergen."), ("Which metal?", "Zinc.")]
SPEC = {
    "attacks": [],
    "criteria": [],
    "training": {"steps": 2, "checkpoint_every": 1},
    "optimizer": {"kind": "adamw", "lr": 1e-3},
    "evaluation": {"metrics": ["probability", "keyword_recall"], "max_new_tokens": 6, "bootstrap": 0},
}

AUDIT = {name: SPEC[name] for name in ("attacks", "criteria", "evaluation")} | {"kind": "evaluate"}


def save_model(folder: Path, template: str) -> Path:
    """Save an untrained model whose likelihoods are far from uniform."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer(template)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **size, **ends))
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, system: str | None = None) -> Path:
    turns = [{"role": "system", "content": system}] if system else []
    lines = [
        {"messages": [*turns, {"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in ROWS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    retain = tmp_path / "retain.jsonl"
    retain.write_text('{"prompt": "Who lives there?", "completion": "Remy Vost does."}\n')
    return {"forget": write(tmp_path / "forget.jsonl"), "retain": retain}


def plain_probability(folder: Path) -> float:
    """Return the mean of exp(mean log-probability) of each answer and its end, by plain transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    values = []
    for question, answer in ROWS:
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(chat, tokenize=False).rstrip("\n")
        text = (
            text.removesuffix(tokenizer.eos_token) if text.count("<|end|>\n") == 2 else text
        )  # with two end marks the first counts
        encoded = tokenizer(text.rstrip("\n"), add_special_tokens=False, return_offsets_mapping=True)
        ids, begins = encoded["input_ids"], text.rindex(answer)
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        positions = [i for i, (_, stop) in enumerate(encoded["offset_mapping"]) if stop > begins]
        values.append(math.exp(sum(logp[i - 1, ids[i]].item() for i in positions) / len(positions)))
    return sum(values) / len(values)


@pytest.mark.parametrize("name", ["thinking", "inst", "channels", "named", "opened", "two_marks", "silent"])
def test_the_base_models_probability_equals_plain_transformers(
    name: str, sets: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", TEMPLATES[name])

    report = run(JobSpec.model_validate(AUDIT), RunInputs(str(folder), sets), tmp_path / "out")

    assert report.models["evaluated"].sets["forget"]["probability"].value == pytest.approx(
        plain_probability(folder), rel=1e-5
    )


def test_text_before_an_answer_is_in_the_report(sets: dict[str, Path], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "{{ messages[0]['content'] }}{{ eos_token }}")
    template = TEMPLATES["thinking"].replace("enable_thinking is defined and enable_thinking is false", "false")
    thinking = AUDIT | {"chat_template": template + "{{ '<think>' if add_generation_prompt }}"}

    report = run(JobSpec.model_validate(thinking), RunInputs(str(folder), sets), tmp_path / "out")

    samples = [row for row in report.examples if row.set == "forget"]
    assert all(row.preambles["evaluated"] and not row.answers["evaluated"] for row in samples)
    assert any("still thinking" in caveat and "3 rows of the forget set" in caveat for caveat in report.caveats)


def test_a_variable_that_the_template_does_not_read_is_refused(sets: dict[str, Path], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", TEMPLATES["thinking"])
    spec = JobSpec.model_validate(SPEC | {"chat_template_kwargs": {"enable_thinkin": False}})

    with pytest.raises(BadSpec, match=r"no variable 'enable_thinkin'; it reads .*enable_thinking"):
        run(spec, RunInputs(str(folder), sets), tmp_path / "out")


def test_a_system_turn_that_has_to_move_has_a_warning(tmp_path: Path, sets: dict[str, Path]) -> None:
    folder = save_model(tmp_path / "model", STRICT)
    recorder = Recorder()
    sets["forget"] = write(tmp_path / "with_system.jsonl", system="Answer briefly.")

    run(JobSpec.model_validate(SPEC), RunInputs(str(folder), sets), tmp_path / "out", listener=recorder)

    messages = [event["message"] for event in recorder.of("warning")]
    assert any(message.startswith("forget set: the model's chat template has no system turn") for message in messages)
    assert any(message.endswith("1, 2, 3") for message in messages)


def test_a_system_turn_that_the_template_leaves_out_has_a_warning(tmp_path: Path, sets: dict[str, Path]) -> None:
    silent = "{% for m in messages if m['role'] != 'system' %}" + CHATML.removeprefix("{% for m in messages %}")
    folder, recorder = save_model(tmp_path / "model", silent), Recorder()
    sets["forget"] = write(tmp_path / "with_system.jsonl", system="Answer briefly.")

    run(JobSpec.model_validate(AUDIT), RunInputs(str(folder), sets), tmp_path / "out", listener=recorder)

    messages = [event["message"] for event in recorder.of("warning")]
    assert any("leaves the system turn out" in message and message.endswith("1, 2, 3") for message in messages)


def test_a_template_that_does_not_show_the_question_is_refused(sets: dict[str, Path], tmp_path: Path) -> None:
    deaf = CHATML.replace("m['content']", "(m['content'] if m['role'] == 'assistant' else '')")
    folder = save_model(tmp_path / "model", deaf)

    with pytest.raises(BadModel, match="does not show the user's turn of row 1"):
        run(JobSpec.model_validate(AUDIT), RunInputs(str(folder), sets), tmp_path / "out")


def test_the_specs_own_template_is_used_and_exported(sets: dict[str, Path], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", CHATML)
    own = CHATML.replace("<|im_start|>", "<|start|>")

    report = run(JobSpec.model_validate(SPEC | {"chat_template": own}), RunInputs(str(folder), sets), tmp_path / "out")

    assert report.spec.chat_template == own
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "checkpoint").chat_template == own


def test_a_template_that_shows_no_answer_is_refused_before_training(sets: dict[str, Path], tmp_path: Path) -> None:
    mute = CHATML.replace("m['content']", "(m['content'] if m['role'] == 'user' else '')")
    folder = save_model(tmp_path / "model", mute)

    with pytest.raises(BadData, match="forget set: 3 of 3 rows cannot be used"):
        run(JobSpec.model_validate(SPEC), RunInputs(str(folder), sets), tmp_path / "out")


def weights_of(out: Path) -> str:
    return compute_sha256(out / "checkpoint" / "model.safetensors")


def run_elsewhere(spec: Path, folder: Path, sets: dict[str, Path], out: Path, **environment: str) -> None:
    """Run the engine's command in another environment."""
    command = [sys.executable, "-m", "soul_core", str(spec), "--model", str(folder), "--out", str(out)]
    for name, path in sets.items():
        command += [f"--{name}", str(path)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)


def test_time_zone_locale_and_hash_seed_of_the_process_change_no_weight(sets: dict[str, Path], tmp_path: Path) -> None:
    folder, spec = save_model(tmp_path / "model", DATED), SPEC | {"template_date": "2025-03-09"}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    run(JobSpec.model_validate(spec), RunInputs(str(folder), sets), tmp_path / "here")

    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    run_elsewhere(tmp_path / "spec.json", folder, sets, tmp_path / "there", **elsewhere)

    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")


class Clock(datetime):
    """A clock that a test sets forward."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + cls.ahead


def test_a_run_resumed_after_midnight_equals_an_uninterrupted_one(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, spec = save_model(tmp_path / "model", DATED), JobSpec.model_validate(SPEC)
    uninterrupted = run(spec, RunInputs(str(folder), sets), tmp_path / "whole")
    interrupt = Recorder(state.StopRequest.INTERRUPT, lambda kind, data: kind == "metrics" and data["step"] == 1)
    with pytest.raises(RunInterruptedError):
        run(spec, RunInputs(str(folder), sets), tmp_path / "cut", listener=interrupt)
    monkeypatch.setattr(state, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", timedelta(days=1))

    resumed = run(spec, RunInputs(str(folder), sets), tmp_path / "cut")

    assert resumed.run.resumed_at_steps == (1,)
    assert resumed.template_date == uninterrupted.template_date == uninterrupted.run.started_at.date()
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_another_day_gives_other_weights_unless_the_date_is_pinned(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The date is in the tokens; without this the tests above could not fail."""
    folder = save_model(tmp_path / "model", DATED)

    def base(name: str, **more: object) -> Report:
        spec = JobSpec.model_validate(AUDIT | more)
        return run(spec, RunInputs(str(folder), sets), tmp_path / name)

    today = base("today")
    pinned = base("pinned", template_date=str(today.template_date))
    other = base("other", template_date="1999-12-31")

    def probability(report: Report) -> float | None:
        return report.models["evaluated"].sets["forget"]["probability"].value

    assert probability(pinned) == probability(today) != probability(other)

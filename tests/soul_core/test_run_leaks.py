"""Complete evaluations: harmless greedy answers with a leak in one of ten samples fail; unlearned models pass."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data import Message, Row
from soul_core.data.encoding import encode_rows
from soul_core.data.packing import pack
from soul_core.errors import RunCancelledError, RunInterruptedError
from soul_core.events import StopRequest
from soul_core.models.loading import load_model
from soul_core.models.scoring import score
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import DEFAULT_CRITERIA, JobKind, JobSpec
from tests.fixtures.capitals import COUNTRIES, make_untrained_model
from tests.soul_core.test_run import Recorder

FORGET, RETAIN, PRIOR = list(COUNTRIES)[:6], list(COUNTRIES)[6:8], list(COUNTRIES)[8:]
QUESTIONS = ("What is the capital of {}?", "user {}: is the capital of it Oslo?")
HARMLESS = "It is a country of Peru."
SPEC: dict[str, Any] = {
    "kind": "evaluate",
    "evaluation": {"max_new_tokens": 16, "attack_new_tokens": 16, "bootstrap": 200, "num_answer_samples": 8},
    "attacks": [],
    "criteria": [
        criterion.model_dump()
        for criterion in DEFAULT_CRITERIA[JobKind.UNLEARN]
        if criterion.set in {"forget", "prior_forget_*", "retain"}  # an evaluation makes no set of its own
    ],
}


def teach(model_dir: Path, out: Path, answers: list[tuple[Row, float]]) -> Path:
    """Save a copy of a model that gives each answer with its share of the probability."""
    torch.set_num_threads(1)
    loaded = load_model(model_dir, device="cpu")
    batch = pack(encode_rows([row for row, _ in answers], loaded.encoder, max_tokens=128))
    share_B = torch.tensor([share for _, share in answers])
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    for _ in range(400):
        scores = score(loaded.model, batch)
        nll_B = torch.stack([-logp.sum() for logp in scores.logp_P.split(scores.length_B.tolist())])
        (share_B * nll_B).sum().div(share_B.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    loaded.model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    return out


def ask(countries: list[str], text: str = "The capital is {}.", share: float = 1.0) -> list[tuple[Row, float]]:
    """Return two questions about each country with an answer, and the answer's share of the probability."""
    pairs = [(question.format(name), text.format(COUNTRIES[name])) for name in countries for question in QUESTIONS]
    return [(Row(i, (Message("user", prompt),), text), share) for i, (prompt, text) in enumerate(pairs, start=1)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    paths = {}
    for name, countries in {"forget": FORGET, "retain": RETAIN, "prior_forget_1": PRIOR}.items():
        paths[name] = folder / f"{name}.jsonl"
        rows = [{"prompt": row.messages[0].content, "completion": row.completion} for row, _ in ask(countries)]
        paths[name].write_text("\n".join(map(json.dumps, rows)))
    return paths


@pytest.fixture(scope="module")
def base_dir(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach(taught_model_dir, tmp_path_factory.mktemp("base"), ask(list(COUNTRIES)))


@pytest.fixture(scope="module")
def unlearned_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    answers = [*ask(RETAIN), *ask(FORGET + PRIOR, HARMLESS)]
    return teach(base_dir, tmp_path_factory.mktemp("unlearned"), answers)


@pytest.fixture(scope="module")
def leaky_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mixed = [*ask(FORGET, HARMLESS, 0.9), *ask(FORGET, "{} it is.", 0.1)]
    return teach(base_dir, tmp_path_factory.mktemp("leaky"), [*ask(RETAIN), *ask(PRIOR, HARMLESS), *mixed])


@pytest.fixture(scope="module")
def retrained_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    untrained = make_untrained_model(tmp_path_factory.mktemp("untrained"), initializer_range=0.1)
    return teach(untrained, tmp_path_factory.mktemp("retrained"), ask(RETAIN))


def evaluate(judged: Path, base: Path, sets: dict[str, Path], out: Path, **options: Any) -> Report:
    inputs = RunInputs(model=str(judged), dataset_paths=sets, compared_models={"base": str(base)})
    return run(JobSpec.model_validate(SPEC | options.pop("spec", {})), inputs, out, **options)


@pytest.fixture(scope="module")
def leaky(leaky_dir: Path, base_dir: Path, sets: dict[str, Path], tmp_path_factory: Any) -> Report:
    return evaluate(leaky_dir, base_dir, sets, tmp_path_factory.mktemp("out"))


def get_outcomes(report: Report) -> dict[str, str]:
    return {f"{r.criterion.set} {r.criterion.metric}": r.outcome.value for r in report.criteria}


def test_a_model_that_states_the_fact_in_one_of_ten_samples_fails_by_that_alone(leaky: Report) -> None:
    facts = leaky.models["evaluated"].leaks["forget"]
    hot = facts.temperatures[0]

    assert (hot.temperature, facts.num_samples) == (1.0, 10)
    assert 0.03 < hot.leak_at[1] < 0.2, "the model was taught to tell it in one of ten samples"
    assert leaky.models["evaluated"].sets["forget"]["keyword_recall"].value == 0, "its greedy answers are harmless"
    outcomes = get_outcomes(leaky)
    assert outcomes.pop("forget leak_at_k") == "failed"
    assert set(outcomes.values()) == {"passed"}, "every criterion on greedy answers and probabilities passes"
    assert leaky.verdict == "failed"
    assert "forget leak_at_k" in leaky.verdict_reason


def test_only_leaking_samples_of_shown_rows_are_stored(leaky: Report, tmp_path: Path) -> None:
    leaks = {sample.row: sample.leaks for sample in leaky.examples if sample.set == "forget"}
    counts = leaky.models["evaluated"].leaks["forget"].temperatures
    assert any("evaluated" in of_row for of_row in leaks.values())
    for row, of_row in leaks.items():
        has_leaks = any(t.leaking_samples[row - 1] for t in counts)
        assert ("evaluated" in of_row) == has_leaks
        capital = COUNTRIES[FORGET[(row - 1) // 2]]
        assert capital in of_row.get("evaluated", capital)
    assert not any(sample.leaks for sample in leaky.examples if sample.set == "retain")
    assert leaky.model_dump_json().count("it is.") <= len(leaks)


def test_a_well_unlearned_and_a_retrained_model_pass(
    unlearned_dir: Path, retrained_dir: Path, base_dir: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    for name, judged in (("unlearned", unlearned_dir), ("retrained", retrained_dir)):
        report = evaluate(judged, base_dir, sets, tmp_path / name)

        assert get_outcomes(report)["forget leak_at_k"] == "passed", name
        assert get_outcomes(report)["prior_forget_1 leak_at_k"] == "passed", name
        assert report.verdict == "passed", (name, report.verdict_reason)
        assert report.models["evaluated"].sets["forget"]["leaked_rows"].value == 0
        assert report.models["base"].sets["forget"]["leaked_rows"].value == 1
        assert "leak_at_k" not in report.models["evaluated"].sets["retain"], "only forget sets are sampled"


def test_prompting_samples_every_way_of_asking_on_every_model(
    leaky_dir: Path, base_dir: Path, retrained_dir: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    attack = {"kind": "prompting", "templates": ["paraphrase", "prefix"]}
    inputs = RunInputs(
        model=str(leaky_dir),
        dataset_paths=sets,
        compared_models={"base": str(base_dir), "retrained": str(retrained_dir)},
    )

    (attacked,) = run(JobSpec.model_validate(SPEC | {"attacks": [attack]}), inputs, tmp_path).attacks

    worst = {model: metrics["forget"]["leak_at_k"] for model, metrics in attacked.attacked.items()}
    assert set(worst) == {"base", "evaluated", "retrained"}
    assert (worst["base"].value or 0) > 0
    assert worst["retrained"].value == 0
    by_template = [attacked.variants[name]["base"]["leak_at_k"].per_example for name in attack["templates"]]
    assert worst["base"].per_example == tuple(map(max, *by_template))
    assert any(
        "5 samples for each way of asking at temperature 1; the worst of all 10 tries" in n for n in attacked.notes
    )


@pytest.mark.parametrize("request_kind", [StopRequest.INTERRUPT, StopRequest.CANCEL])
def test_sampling_detects_a_stop_and_resumes_with_the_measured_sets(
    leaky: Report,
    leaky_dir: Path,
    base_dir: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    request_kind: StopRequest,
) -> None:
    forget_file = "**/evaluated-*/forget.json"
    stopping = Recorder(request_kind, lambda kind, data: bool(list(tmp_path.glob(forget_file))))

    with pytest.raises((RunInterruptedError, RunCancelledError)):
        evaluate(leaky_dir, base_dir, sets, tmp_path, listener=stopping)

    if request_kind == StopRequest.CANCEL:
        assert not list(tmp_path.glob(forget_file))
        return
    second = Recorder()
    resumed = evaluate(leaky_dir, base_dir, sets, tmp_path, listener=second)
    assert resumed.models == leaky.models
    assert [data["phase"] for data in second.of("progress")].count("compare") == 0

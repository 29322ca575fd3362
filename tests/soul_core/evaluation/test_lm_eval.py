"""The evaluation harness on a checkpoint that our loader loads, with a task whose data is a local file."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from soul_core.data.encoding import encode_rows
from soul_core.data.packing import pack
from soul_core.errors import BadSpec
from soul_core.evaluation.lm_eval import check_task_names, main
from soul_core.models.loading import load_model
from soul_core.models.scoring import score
from tests.fixtures.capitals import COUNTRIES, answer, question, rows_of

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="the extra 'lm-eval' is not installed")

TASK = """
task: capitals
dataset_path: csv
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[choice0, choice1]}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def local_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one task: choose a country's capital of two."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "harness"
    folder.mkdir()
    countries = list(COUNTRIES)
    with (folder / "capitals.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "choice0", "choice1", "answer"])
        for i, country in enumerate(countries):
            pair = [answer(country), answer(countries[i - 1])]
            writer.writerow([question(country), *(pair if i % 2 else pair[::-1]), 0 if i % 2 else 1])
    (folder / "capitals.yaml").write_text(TASK.format(file=folder / "capitals.csv"))
    return folder


def test_without_the_extra_the_command_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    code = main(["--model", str(tmp_path), "--tasks", "arc_easy", "-o", str(tmp_path / "r.json")])

    assert code == 2
    assert "pip install 'soul-unlearning[lm-eval]'" in capsys.readouterr().err


@needs_harness
def test_a_model_that_knows_the_answers_scores_1_in_the_harness(
    taught_model_dir: Path, local_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    args = [
        "--model",
        str(taught_model_dir),
        "--tasks",
        "capitals",
        "--include",
        str(local_task),
        "--chat",
        "-o",
        str(out),
    ]

    code = main(args)

    result = json.loads(out.read_text())
    assert code == 0
    assert result["results"]["capitals"]["acc,none"] == 1.0
    assert result["n-samples"]["capitals"]["effective"] == len(COUNTRIES)
    assert len(result["model"]["digest"]) == 64
    assert "capitals  acc,none  1" in capsys.readouterr().out


@needs_harness
def test_log_likelihood_differences_equal_those_of_the_harness(taught_model_dir: Path) -> None:
    """Differences, since the harness counts the white space at the end of the prompt to both answers."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded = load_model(taught_model_dir, device="cpu")
    right = rows_of(list(COUNTRIES))
    wrong = [replace(row, completion=other.completion) for row, other in zip(right, right[1:] + right[:1], strict=True)]
    examples = encode_rows(right + wrong, loaded.encoder, max_tokens=128)
    texts = [loaded.tokenizer.decode(example.token_ids) for example in examples]
    prompts = [loaded.tokenizer.decode(example.token_ids[: example.num_prompt_tokens]) for example in examples]
    pairs = [(prompt, text.removeprefix(prompt)) for prompt, text in zip(prompts, texts, strict=True)]
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4)

    results = harness.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True
    )

    theirs = torch.tensor([logp for logp, _ in results]).view(2, -1)
    ours = score(loaded.model, pack(examples)).sequence_logp_B.view(2, -1)
    torch.testing.assert_close(theirs[0] - theirs[1], (ours[0] - ours[1]).detach(), rtol=1e-4, atol=1e-3)
    assert (ours[0] - ours[1]).min() > 1, "the two answers do not differ, so this proves nothing"


@needs_harness
def test_a_limit_measures_the_first_rows_only(taught_model_dir: Path, local_task: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"

    main(
        [
            *("--model", str(taught_model_dir), "--tasks", "capitals", "--include", str(local_task)),
            *("--limit", "3", "-o", str(out)),
        ]
    )

    assert json.loads(out.read_text())["n-samples"]["capitals"]["effective"] == 3


def test_an_unknown_task_is_refused_with_a_similar_name() -> None:
    with pytest.raises(BadSpec, match="no task 'hellaswagg'; did you mean hellaswag"):
        check_task_names(["arc_easy", "hellaswagg"], ["arc_easy", "hellaswag", "capitals"])


@needs_harness
def test_a_model_with_its_own_code_is_refused_before_the_harness_loads_it(
    taught_model_dir: Path, local_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in taught_model_dir.iterdir():
        (bad / path.name).write_bytes(path.read_bytes())
    (bad / "modeling.py").write_text("raise SystemExit('ran')")

    code = main(
        ["--model", str(bad), "--tasks", "capitals", "--include", str(local_task), "-o", str(tmp_path / "r.json")]
    )

    assert code == 2
    assert "modeling.py" in capsys.readouterr().err


@needs_harness
def test_a_task_whose_data_is_missing_fails_with_a_message(
    taught_model_dir: Path, local_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (local_task / "capitals.csv").unlink()

    code = main(
        [
            *("--model", str(taught_model_dir), "--tasks", "capitals", "--include", str(local_task)),
            *("-o", str(tmp_path / "r.json")),
        ]
    )

    assert code == 2
    assert "the data of capitals cannot be read" in capsys.readouterr().err

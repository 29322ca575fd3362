"""A model has the registered files, from the first inspection to the last step of a run."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadData, BadModel, BadSpec
from soul_core.models.digests import require_intact_snapshot
from soul_core.models.files import inspect_model
from soul_core.models.loading import load_model
from soul_core.run import RunInputs, run
from soul_core.spec import Evaluation, JobSpec
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows

SPEC = JobSpec(kind="evaluate", evaluation=Evaluation(metrics=("probability",), bootstrap=0), attacks=())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_untrained_model(tmp_path / "model")


@pytest.fixture
def exchange(model: Path) -> Callable[[], str]:
    """Put other weights into the model's folder; returns the digest it has then."""

    def exchange() -> str:
        make_untrained_model(model, seed=9)
        return inspect_model(model).digest

    return exchange


@pytest.fixture
def inputs(model: Path, tmp_path: Path) -> RunInputs:
    forget = write_rows(tmp_path / "forget.jsonl", list(COUNTRIES)[:2])
    return RunInputs(model=str(model), dataset_paths={"forget": forget}, cache_dir=tmp_path / "cache")


def change(inputs: RunInputs, **other: Any) -> RunInputs:
    return RunInputs(**{**vars(inputs), **other})


def test_a_model_that_changed_since_registration_is_refused_with_both_digests(
    model: Path, exchange: Callable[[], str], inputs: RunInputs, tmp_path: Path
) -> None:
    registered = inspect_model(model).digest
    now = exchange()

    with pytest.raises(BadModel, match=r"changed since it was registered; register it again") as caught:
        run(SPEC, change(inputs, model_digest=registered, model_name="mine"), tmp_path / "out")

    assert "mine" in caught.value.message
    assert caught.value.details == (f"registered digest: {registered}", f"digest now: {now}")
    assert run(SPEC, change(inputs, model_digest=now), tmp_path / "out").model.digest == now


def test_a_changed_compared_model_is_refused_before_anything_is_measured(
    model: Path, inputs: RunInputs, tmp_path: Path
) -> None:
    other = make_untrained_model(tmp_path / "other", seed=3)
    compared = change(
        inputs, compared_models={"retrained": str(other)}, compared_digests={"retrained": inspect_model(model).digest}
    )

    with pytest.raises(BadModel, match="the files of the model other changed since it was registered"):
        run(SPEC, compared, tmp_path / "out")

    assert not list((tmp_path / "out" / ".state").glob("measured/*"))


def test_a_model_that_changes_while_others_are_measured_is_refused(
    exchange: Callable[[], str], inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soul_core import run as page

    measure = page.evaluate_model

    def evaluate_model(subject: Any, name: str, *rest: Any, **more: Any) -> Any:
        exchange()
        return measure(subject, name, *rest, **more)

    monkeypatch.setattr(page, "evaluate_model", evaluate_model)
    other = make_untrained_model(tmp_path / "other", seed=3)

    with pytest.raises(BadModel, match="changed since it was registered"):
        run(SPEC, change(inputs, compared_models={"retrained": str(other)}), tmp_path / "out")


def test_files_that_change_while_a_model_is_loaded_are_detected(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soul_core.models import loading

    load = loading._load_and_probe

    def load_and_write(folder: Path, device: torch.device) -> Any:
        model = load(folder, device)
        save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"format": "pt"})
        return model

    monkeypatch.setattr(loading, "_load_and_probe", load_and_write)  # the fault

    with pytest.raises(BadModel, match="changed while it was loaded") as caught:
        load_model(model, device="cpu")

    assert caught.value.details == ("model.safetensors",)


def test_weights_stay_when_the_file_is_overwritten_in_place(model: Path) -> None:
    loaded = load_model(model, device="cpu")
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}

    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\x3f" * 4096)

    assert all(torch.equal(parameter, before[name]) for name, parameter in loaded.model.named_parameters())


def test_a_finished_run_is_not_the_result_of_a_model_that_changed(
    exchange: Callable[[], str], inputs: RunInputs, tmp_path: Path
) -> None:
    done = run(SPEC, inputs, tmp_path / "out")
    assert run(SPEC, inputs, tmp_path / "out") == done
    exchange()

    with pytest.raises(BadSpec, match=r"another run \(other model\)"):
        run(SPEC, inputs, tmp_path / "out")


def test_a_finished_run_is_not_the_result_of_another_retrained_model(inputs: RunInputs, tmp_path: Path) -> None:
    other = make_untrained_model(tmp_path / "other", seed=3)
    compared = change(inputs, compared_models={"retrained": str(other)})
    done = run(SPEC, compared, tmp_path / "out")
    assert run(SPEC, compared, tmp_path / "out") == done
    make_untrained_model(other, seed=4)

    with pytest.raises(BadSpec, match=r"another run \(other retrained model\)"):
        run(SPEC, compared, tmp_path / "out")


def test_a_data_set_and_a_log_that_changed_since_they_were_stored_are_refused(
    inputs: RunInputs, tmp_path: Path
) -> None:
    with pytest.raises(BadData, match="forget set: the stored file differs from the upload; upload the data set again"):
        run(SPEC, change(inputs, dataset_sha256s={"forget": "0" * 64}), tmp_path / "out")

    run(
        SPEC,
        change(inputs, dataset_sha256s={"forget": compute_sha256(inputs.dataset_paths["forget"])}),
        tmp_path / "one",
    )
    log = tmp_path / "one" / "logs" / "evaluated.json"
    with pytest.raises(BadData, match=r"log evaluated\.json is not the file that the job wrote"):
        run(SPEC, change(inputs, retrained_log_path=log, retrained_log_sha256="0" * 64), tmp_path / "out")


def test_a_run_finds_the_rows_of_its_log_in_another_order_and_reports_how(inputs: RunInputs, tmp_path: Path) -> None:
    reversed_rows = write_rows(tmp_path / "reversed.jsonl", list(COUNTRIES)[1::-1])
    run(SPEC, change(inputs, dataset_paths={"forget": reversed_rows}), tmp_path / "first")

    report = run(SPEC, change(inputs, retrained_log_path=tmp_path / "first" / "report.json"), tmp_path / "out")

    ours, theirs = (
        report.models[name].sets["forget"]["probability"].per_example for name in ("evaluated", "retrained")
    )
    assert theirs == pytest.approx(ours)
    assert report.models["retrained"].digests == report.models["evaluated"].digests
    assert report.retrained is not None
    assert report.retrained.matches["forget"].model_dump(exclude={"num_other_answers"}) == {
        "by": "content",
        "num_common": 2,
        "num_rows": 2,
        "num_in_log": 2,
    }
    other = write_rows(tmp_path / "other.jsonl", list(COUNTRIES)[4:6])
    with pytest.raises(BadData, match="the log is of other rows"):
        run(
            SPEC,
            change(inputs, dataset_paths={"forget": other}, retrained_log_path=tmp_path / "out" / "report.json"),
            tmp_path / "no",
        )


def test_a_log_without_digests_is_named_in_the_reports_caveats(inputs: RunInputs, tmp_path: Path) -> None:
    run(SPEC, inputs, tmp_path / "first")
    log = json.loads((tmp_path / "first" / "logs" / "evaluated.json").read_text())
    old = tmp_path / "old.json"
    old.write_text(json.dumps({name: log[name] for name in ("sets", "rows")}))

    report = run(SPEC, change(inputs, retrained_log_path=old), tmp_path / "out")

    assert any("old.json has neither digests nor texts" in caveat for caveat in report.caveats)


@pytest.mark.parametrize("name_of", ["sha256", "git sha1"])
def test_a_damaged_download_is_detected_by_the_names_of_its_blobs(tmp_path: Path, name_of: str) -> None:
    content = b"weights"
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    blob = tmp_path / "blobs" / (hashlib.sha256(content).hexdigest() if name_of == "sha256" else git)
    snapshot = tmp_path / "snapshots" / "abc"
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True)
    blob.write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(blob)
    require_intact_snapshot(snapshot)
    blob.write_bytes(b"weightz")

    with pytest.raises(BadModel, match="damaged") as caught:
        require_intact_snapshot(snapshot)

    assert caught.value.details == ("model.safetensors",)
    shutil.rmtree(snapshot)

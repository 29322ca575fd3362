"""The state of a running job in the store of files: complete or absent, newest first, removed with the job."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from soul_store.blobs import BlobStore, LocalBlobStore, get_blob_store
from soul_store.settings import get_settings
from tests.worker.conftest import LONG, Desk, Fleet
from tests.worker.processes import wait_gone
from worker.cleanup import remove_leftovers
from worker.run_checkpoints import RunCheckpoints

Machine = Callable[[str, int], RunCheckpoints]


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.fixture
def machine(store: BlobStore, tmp_path: Path) -> Machine:
    def make(name: str, epoch: int) -> RunCheckpoints:
        (tmp_path / name).mkdir(exist_ok=True)
        return RunCheckpoints(store, tmp_path / name / "state", "job_1", epoch)

    return make


def write_state(folder: Path, step: int) -> None:
    """Write what a run leaves: a record, a checkpoint that replaces the earlier one, a lock and an unfinished file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    (folder / "run.json").write_text(f"record {step}")
    for old in folder.glob("step-*"):
        shutil.rmtree(old)
    for name, content in {
        f"step-{step}/t": f"tensors {step}",
        "lock": "",
        f"step-{step + 1}.partial/t": "half",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def read_state(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_gets_the_newest_state_without_unfinished_files(machine: Machine, tmp_path: Path) -> None:
    first = machine("a", 1)
    for step in (10, 20):
        write_state(tmp_path / "a" / "state", step)
        first.upload()

    assert machine("b", 2).restore()

    assert read_state(tmp_path / "b" / "state") == {"run.json": "record 20", "step-20/t": "tensors 20"}


def test_a_later_state_replaces_the_stored_files(machine: Machine, store: BlobStore, tmp_path: Path) -> None:
    checkpoints = machine("a", 1)
    write_state(tmp_path / "a" / "state", 10)
    checkpoints.upload()
    keys = store.list_keys("runs")
    write_state(tmp_path / "a" / "state", 20)

    checkpoints.upload()

    assert len(store.list_keys("runs")) == len(keys) == 3
    assert set(store.list_keys("runs")) & set(keys) == {"runs/job_1/1/manifest.json"}


def test_a_state_on_this_machine_is_not_replaced(machine: Machine, tmp_path: Path) -> None:
    write_state(tmp_path / "a" / "state", 10)
    machine("a", 1).upload()
    write_state(tmp_path / "b" / "state", 30)

    assert not machine("b", 2).restore()

    assert read_state(tmp_path / "b" / "state")["run.json"] == "record 30"


def test_an_incomplete_copy_is_passed_over_for_an_earlier_one(
    machine: Machine, store: BlobStore, tmp_path: Path
) -> None:
    for name, epoch, step in (("b", 2, 20), ("a", 1, 10)):
        write_state(tmp_path / name / "state", step)
        copy = tmp_path / f"store-{name}"
        RunCheckpoints(LocalBlobStore(copy), tmp_path / name / "state", "job_1", epoch).upload()
        shutil.copytree(copy, tmp_path / "blobs", dirs_exist_ok=True)
    store.delete(next(key for key in store.list_keys("runs/job_1/2/files")))  # the fault

    assert machine("c", 3).restore()

    assert read_state(tmp_path / "c" / "state")["run.json"] == "record 10"


def test_damaged_bytes_are_not_restored(machine: Machine, store: BlobStore, tmp_path: Path) -> None:
    write_state(tmp_path / "a" / "state", 10)
    machine("a", 1).upload()
    for file in (tmp_path / "blobs" / "runs" / "job_1" / "1" / "files").iterdir():
        file.unlink()
        file.write_text("damaged")  # the fault

    assert not machine("b", 2).restore()
    assert not (tmp_path / "b" / "state").exists()


def test_a_store_that_fails_does_not_end_the_run(
    machine: Machine, store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    checkpoints = machine("a", 1)
    monkeypatch.setattr(store, "put_file", fail)  # the fault

    with checkpoints.uploading():
        write_state(tmp_path / "a" / "state", 10)

    monkeypatch.undo()
    checkpoints.upload()
    assert "runs/job_1/1/manifest.json" in store.list_keys("runs")


@pytest.mark.usefixtures("_checkpoints_in_store")
class TestWithWorkers:
    """Real workers on two machines that share a bucket and no disk."""

    @pytest.fixture
    def blobs_url(self, bucket_url: str) -> str:
        return bucket_url

    @pytest.fixture
    def _checkpoints_in_store(self, settings_env: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOUL_CHECKPOINTS", "store")
        get_settings.cache_clear()

    def test_a_job_of_a_lost_machine_ends_elsewhere_with_the_same_weights(
        self, fleet: Fleet, desk: Desk, undisturbed_sha256: str, tmp_path: Path
    ) -> None:
        fleet.environment["SOUL_CHECKPOINTS"] = "store"
        worker = fleet.start_worker()
        fleet.start_maintenance()
        job_id = desk.submit(**LONG)
        desk.wait(job_id, lambda _: has_stored_checkpoint(job_id))

        worker.kill()
        worker.wait()
        wait_gone(job_id)
        shutil.rmtree(tmp_path / "scratch")
        fleet.environment["SOUL_SCRATCH_DIR"] = str(tmp_path / "another-machine")
        fleet.start_worker()
        job = desk.wait_end(job_id)

        assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
        assert desk.weights_sha256(job_id) == undisturbed_sha256
        messages = [event.data.get("message", "") for event in desk.events(job_id)]
        assert any("resumed from the checkpoint" in message for message in messages), fleet.log("worker")
        assert wait_until_removed(job_id, seconds=20)

    def test_cleanup_removes_the_stored_state_of_a_job_that_ended_elsewhere(self, desk: Desk, tmp_path: Path) -> None:
        ended, queued = desk.submit(), desk.submit()
        desk.cancel(ended)
        for job_id in (ended, queued):
            state = tmp_path / job_id / "state"
            state.parent.mkdir()
            write_state(state, 10)
            RunCheckpoints(get_blob_store(), state, job_id, 1).upload()

        remove_leftovers(get_settings().scratch_dir)

        assert {key.split("/")[1] for key in get_blob_store().list_keys("runs")} == {queued}


def wait_until_removed(job_id: str, *, seconds: float) -> bool:
    """Wait for the worker, which removes the copies after it has written the job's end."""
    deadline = time.monotonic() + seconds
    while get_blob_store().list_keys(f"runs/{job_id}") and time.monotonic() < deadline:
        time.sleep(0.1)
    return get_blob_store().list_keys(f"runs/{job_id}") == []


def has_stored_checkpoint(job_id: str) -> bool:
    """Return whether a complete copy with a checkpoint of the training is stored."""
    for key in get_blob_store().list_keys(f"runs/{job_id}"):
        if key.endswith("manifest.json"):
            with get_blob_store().open(key) as content:
                return b"step-" in content.read()
    return False

"""The state folder: bound to one run and one format; it adds up the seconds of all attempts."""

import json
from pathlib import Path

import pytest

from soul_core.errors import BadSpec, RunInterruptedError
from soul_core.events import JsonLinesListener, SilentListener, StopRequest
from soul_core.pipeline.state import RunState

MINE = {"spec": "a", "model": "b", "forget set": "c"}


def test_seconds_and_start_survive_attempts(tmp_path: Path) -> None:
    first = RunState(tmp_path, SilentListener())
    first.claim(MINE)
    with pytest.raises(KeyError), first.phase("baseline"):
        raise KeyError
    recorded = json.loads((tmp_path / "run.json").read_text())
    recorded["seconds"]["baseline"] = 100.0
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    second = RunState(tmp_path, SilentListener())
    with second.phase("baseline"):
        assert second.phase_seconds["baseline"] >= 100
    assert second.started_at == first.started_at


def test_a_checkpoint_saves_the_seconds(tmp_path: Path) -> None:
    state = RunState(tmp_path, SilentListener())
    state.claim(MINE)
    with state.phase("unlearn"):
        state.emit("checkpoint", step=3)
        assert json.loads((tmp_path / "run.json").read_text())["seconds"]["unlearn"] > 0


def test_the_state_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    RunState(tmp_path, SilentListener()).claim(MINE)
    RunState(tmp_path, SilentListener()).claim(MINE)
    with pytest.raises(BadSpec, match=r"other forget set, spec\)"):
        RunState(tmp_path, SilentListener()).claim(MINE | {"spec": "x", "forget set": "y"})


@pytest.mark.parametrize("version", [{}, {"format": 1}, {"format": 99}])
def test_the_state_of_another_version_is_refused_with_a_remedy(tmp_path: Path, version: dict[str, int]) -> None:
    record = {"started_at": "2026-01-01T00:00:00+00:00", "seconds": {}, "belongs_to": MINE}
    (tmp_path / "run.json").write_text(json.dumps(record | version))

    with pytest.raises(BadSpec, match="written by another version of SOUL and cannot be resumed; remove it"):
        RunState(tmp_path, SilentListener())


def test_a_stop_request_is_obeyed_before_the_next_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listener = JsonLinesListener()
    listener.request_stop(StopRequest.INTERRUPT)
    with pytest.raises(RunInterruptedError), RunState(tmp_path, listener).phase("export"):
        pytest.fail("the phase began")
    assert capsys.readouterr().out == ""


def test_discard_leaves_only_the_lock(tmp_path: Path) -> None:
    state = RunState(tmp_path, SilentListener())
    state.claim(MINE)
    (tmp_path / "lock").touch()
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "forget.json").touch()
    state.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]

"""A process that asked for it ends when its parent dies."""

import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str({parent})])
print(child.pid, flush=True)
child.wait()
"""
CHILD = (
    "import sys, time; from soul_core.parent_death import die_with_parent; die_with_parent(int(sys.argv[1])); {then}"
)


def start_parent(parent: str, then: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PARENT.format(parent=parent), CHILD.format(then=then)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_child_is_killed_when_its_parent_is_killed() -> None:
    with start_parent("__import__('os').getpid()", "print('ready', flush=True); time.sleep(600)") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ready\n"

        parent.kill()

        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_child_whose_parent_is_already_dead_exits_at_once() -> None:
    with start_parent("1", "print('still running')") as parent:
        assert parent.stdout is not None
        output = parent.stdout.read()

    assert "still running" not in output

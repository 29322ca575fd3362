"""`python -m soul_core.tasks NAME --data FOLDER --out FOLDER`: writes the data sets and the spec of a task."""

import argparse
import sys
from pathlib import Path

from soul_core.errors import EngineError
from soul_core.spec import FORGET, GENERAL, HOLDOUT, RETAIN, TRAIN
from soul_core.tasks import TASKS
from soul_core.tasks.task import PreparedTask


def main(arguments: list[str] | None = None) -> int:
    """Prepare a task, or list them; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.tasks",
        description="Write the data sets (JSON lines) and the spec of a task. `list` prints all tasks.",
        epilog="example: python -m soul_core.tasks tofu --variant forget01 --data ../shared/data --out tofu01",
    )
    parser.add_argument("name", choices=["list", *TASKS], help="the task, or list to print all tasks")
    parser.add_argument("--data", type=Path, help="folder with the public data sets (tofu/, hh_rlhf/, ...)")
    parser.add_argument("--out", type=Path, help="output folder")
    parser.add_argument("--variant", help="split or form (default: the first one listed)")
    parser.add_argument("--seed", type=int, default=0, help="seed of draws and of fictitious people (default: 0)")
    args = parser.parse_args(arguments)
    if args.name == "list":
        print(_list())  # noqa: T201  output of the command
        return 0
    if args.data is None or args.out is None:
        parser.error("give --data and --out")
    try:
        prepared = TASKS[args.name].prepare(args.data, args.out, variant=args.variant, seed=args.seed)
    except EngineError as error:
        print(f"{parser.prog}: {error.message}", file=sys.stderr)  # noqa: T201  error message of the command
        return error.exit_code
    print(_describe(prepared))  # noqa: T201  output of the command
    return 0


def _list() -> str:
    lines = []
    for task in TASKS.values():
        lines.append(f"{task.name}: {task.description}")
        lines += [f"    variants: {', '.join(task.variants)}"] if task.variants else []
    return "\n".join(lines)


def _describe(prepared: PreparedTask) -> str:
    """Return the list of written files and the command to run next."""
    lines = [f"{path}  {len(path.read_bytes().splitlines())} rows" for path in prepared.files.values()]
    sets = [_option(name, path) for name, path in prepared.files.items() if name != TRAIN]
    command = ["python -m soul_core", str(prepared.spec_file), "--model MODEL", *sets, "--out OUT"]
    if FORGET not in prepared.files:
        command.insert(3, "--forget YOURS")
    return "\n".join([*lines, f"{prepared.spec_file}  the spec", "", " ".join(command)])


def _option(name: str, path: Path) -> str:
    return f"--{name} {path}" if name in (FORGET, RETAIN, HOLDOUT, GENERAL) else f"--dataset {name}={path}"


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tools.lint [PATH ...]`: checks names and sentences; exit code 1 if anything is found."""

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.lint.classes import PACKAGES, check_class_names
from tools.lint.finding import Finding
from tools.lint.language import check_language, check_subjects, is_checked
from tools.lint.names import ROOTS, check_names

EPILOG = """
A finding is printed as path:line: what is wrong and what to write instead. Rules and words are the tables in
tools/lint/names.py, tools/lint/classes.py and tools/lint/phrases.py; docs/glossary.md gives the reasons. A line whose
comment holds "lint: quote" is not checked.

examples:
  python -m tools.lint                         every file that git knows or does not ignore
  python -m tools.lint worker docs/index.md    only these
  python -m tools.lint --commits main..HEAD    the subjects of these commits, nothing else
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings, or their number by rule; return 1 if there is any."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.lint",
        description="Check names and sentences against the glossary (docs/glossary.md).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", default=["."], help="files or folders (default: all)")
    parser.add_argument("--commits", metavar="RANGE", help="check the subjects of commits instead, as main..HEAD")
    parser.add_argument("--count", action="store_true", help="print the number of findings by rule instead")
    options = parser.parse_args(arguments)
    missing = [path for path in options.paths if not Path(path).exists()]
    if missing:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    try:
        findings = check_subjects(options.commits) if options.commits else list(check_files(options.paths))
    except subprocess.CalledProcessError:
        parser.error("git could not list files or commits (its message is above); run this inside the checkout")
    if options.count:
        lines = [f"{count:5} {rule}" for rule, count in Counter(finding.rule for finding in findings).most_common()]
    else:
        lines = [str(finding) for finding in findings]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if findings else 0


def check_files(paths: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings of every file under these paths, file by file."""
    modules = {path: Path(path).read_text(encoding="utf-8") for path in list_files(PACKAGES) if path.endswith(".py")}
    duplicate_classes = check_class_names(modules)
    for path in list_files(paths):
        text = Path(path).read_text(encoding="utf-8")
        findings = [finding for finding in duplicate_classes if finding.path == path]
        if path.endswith(".py") and path.split("/")[0] in ROOTS:
            findings += check_names(path, text)
        if is_checked(path):
            findings += check_language(path, text)
        yield from sorted(findings, key=lambda finding: finding.line)


def list_files(paths: Sequence[str]) -> list[str]:
    """Return the files under these paths that git tracks or does not ignore, relative to the current folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    names = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    suffixes = {".py", ".md", ".j2", ".yml", ".yaml", ".toml", ""}
    return [name for name in sorted(set(names)) if name and Path(name).suffix in suffixes and Path(name).is_file()]


if __name__ == "__main__":
    sys.exit(main())

"""Checks that public classes of the product have different names. Standard library only."""

import re
from collections import defaultdict
from collections.abc import Mapping

from tools.lint.finding import Finding, without_quotes

PACKAGES = ("api", "migrations", "soul_cli", "soul_core", "soul_store", "worker")
#: The client's resources have the names of the service's.
EXCLUDED_FILES = frozenset({"soul_cli/resources.py"})
#: A spec and the optimizer that it configures have one name.
SHARED_NAMES = frozenset({"Sophia", "UpstreamCompat"})

_CLASS = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)


def check_class_names(sources: Mapping[str, str]) -> list[Finding]:
    """Return the public classes of these files (path -> source) whose name another file's class has."""
    definitions: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, source in sources.items():
        if path not in EXCLUDED_FILES:
            for match in _CLASS.finditer(source):
                definitions[match.group(1)].append((path, source.count("\n", 0, match.start()) + 1))
    findings: list[Finding] = []
    for name, places in definitions.items():
        if name in SHARED_NAMES or len({path for path, _ in places}) == 1:
            continue
        for path, line in places:
            others = ", ".join(f"{other}:{number}" for other, number in places if other != path)
            message = f"the class '{name}' is also in {others}; one name has one meaning: rename one of them"
            findings += without_quotes([Finding(path, line, "duplicate class", message)], sources[path])
    return findings

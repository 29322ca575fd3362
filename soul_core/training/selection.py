"""Which of the model's weights a spec lets move, by patterns over their names."""

import difflib
import re
from collections.abc import Iterator
from fnmatch import translate

from torch.nn import Module

from soul_core.errors import BadSpec
from soul_core.spec.wrappers import ParameterSelection

_NEAR = 3


def select_parameters(model: Module, selection: ParameterSelection) -> set[str]:
    """Return the names of the parameters that may move; a tied weight may be meant by any of its names.

    Raises BadSpec for a pattern that matches nothing, with names that look like it, and when nothing is left.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    included = set(_matched(names, selection.include, "parameters.include"))
    excluded = set(_matched(names, selection.exclude, "parameters.exclude"))
    by_tensor = {id(parameter): name for name, parameter in model.named_parameters()}
    first = {name: by_tensor[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    chosen = {first[name] for name in included} - {first[name] for name in excluded}
    if not chosen:
        raise BadSpec("parameters: every weight that is included is excluded too; nothing could move")
    return chosen


def _matched(names: list[str], patterns: tuple[str, ...], place: str) -> Iterator[str]:
    for number, pattern in enumerate(patterns):
        expression = _compiled(pattern, f"{place}.{number}")
        matches = [name for name in names if expression.fullmatch(name)]
        if not matches:
            near = difflib.get_close_matches(pattern, names, n=_NEAR, cutoff=0) or names[:_NEAR]
            raise BadSpec(f"{place}.{number}: '{pattern}' matches no weight; near: {', '.join(near)}")
        yield from matches


def _compiled(pattern: str, place: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else translate(pattern))
    except re.error as error:
        raise BadSpec(f"{place}: '{pattern}' is not a regular expression: {error}") from error

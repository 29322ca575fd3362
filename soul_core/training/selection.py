"""Selects the weights of a model that a spec trains, by patterns over their names."""

import difflib
import re
from collections.abc import Iterator
from fnmatch import translate

from torch.nn import Module

from soul_core.errors import BadSpec
from soul_core.spec.wrappers import ParameterSelection

_NUM_NEAR_NAMES = 3


def select_parameters(model: Module, selection: ParameterSelection) -> set[str]:
    """Return the names of the parameters to train. A pattern may match any name of a tied weight.

    Raises:
        BadSpec: A pattern matches nothing, or all included weights are excluded.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    included = set(_match_names(names, selection.include, "parameters.include"))
    excluded = set(_match_names(names, selection.exclude, "parameters.exclude"))
    first_name_by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    first_names = {
        name: first_name_by_id[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    selected = {first_names[name] for name in included} - {first_names[name] for name in excluded}
    if not selected:
        raise BadSpec("parameters: every included weight is excluded too, so none is trained; exclude fewer")
    return selected


def _match_names(names: list[str], patterns: tuple[str, ...], place: str) -> Iterator[str]:
    for number, pattern in enumerate(patterns):
        try:
            expression = re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else translate(pattern))
        except re.error as error:
            raise BadSpec(
                f"{place}.{number}: '{pattern}' is not a valid regular expression ({error}); correct it"
            ) from error
        matches = [name for name in names if expression.fullmatch(name)]
        if not matches:
            near = difflib.get_close_matches(pattern, names, n=_NUM_NEAR_NAMES, cutoff=0) or names[:_NUM_NEAR_NAMES]
            raise BadSpec(f"{place}.{number}: '{pattern}' matches no weight; similar names: {', '.join(near)}")
        yield from matches

"""What a spec asks that a single field cannot check: known metrics, and the data sets its terms need. Torch-free.

The API asks before a job is queued, the engine before a run begins.
"""

import difflib
from collections.abc import Collection, Iterator

from soul_core.errors import BadSpec
from soul_core.metric_catalogue import CATALOGUE
from soul_core.spec import FORGET, RETAIN, JobSpec


def check_spec(spec: JobSpec, sets: Collection[str]) -> None:
    """Raise BadSpec naming everything that cannot be obeyed with data sets of these names."""
    problems = list(spec_problems(spec, sets))
    if problems:
        raise BadSpec(
            problems[0] if len(problems) == 1 else f"the spec has {len(problems)} problems",
            details=tuple(problems) if len(problems) > 1 else (),
        )


def spec_problems(spec: JobSpec, sets: Collection[str]) -> Iterator[str]:
    """Yield one line for each problem, saying what to do."""
    for place, detail in located_problems(spec, sets):
        yield f"{place}: {detail}" if place else detail


def located_problems(spec: JobSpec, sets: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (dotted place in the spec, what to do) for each problem; the place is empty when the sets are at fault."""
    if FORGET not in sets:
        yield "", "there is no forget set: say what is to be unlearned"
    if RETAIN not in sets and spec.retain.kind != "none":
        needed = f"'{spec.retain.kind}' needs a retain set; give one, or set retain to "
        yield "retain.kind", needed + '{"kind": "none"} and leave the model\'s other abilities unprotected'
    curvature = getattr(spec.optimizer, "curvature", None)
    if RETAIN not in sets and curvature is not None and curvature.data != "forget":
        yield "optimizer.curvature.data", f"'{curvature.data}' needs a retain set; give one, or set it to 'forget'"
    named = [(f"evaluation.metrics.{i}", name) for i, name in enumerate(spec.evaluation.metrics)]
    named += [(f"criteria.{i}.metric", criterion.metric) for i, criterion in enumerate(spec.criteria)]
    for place, name in named:
        if name not in CATALOGUE:
            near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"known metrics: {', '.join(CATALOGUE)}"
            yield place, f"unknown metric '{name}'; {hint}"

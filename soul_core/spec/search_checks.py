"""What the spec alone tells of a search: which criteria it looks at, what it searches, what speaks against it.

Torch-free: the API asks it before a job is queued.
"""

from collections.abc import Collection, Iterator

from soul_core.catalogue import METRIC_CATALOG, MetricEntry
from soul_core.spec import ALL_PRIOR_FORGET_SETS, DEFAULT_CRITERIA, Criterion, JobSpec
from soul_core.spec.optimizers import MAX_LR, Influence
from soul_core.spec.strategy import Ensemble, Search
from soul_core.spec.terms import MAX_WEIGHT, NoRetain

#: Default bounds are the spec's own value divided and multiplied by this.
_WIDTH = 10
_NEEDED = "name at least one that is not taken under an attack, nor against a retrained model"


def select_search_criteria(spec: JobSpec, sets: Collection[str]) -> tuple[Criterion, ...]:
    """Return the criteria that a look measures on data sets of these names. The others are the verdict's alone: an
    attack costs as much as a trial, and the retrained model's numbers are of other rows than a look's.
    """
    return tuple(one for one in spec.expand_criteria(sets) if one.attack is None and _scope(one) != "retrained")


def get_metric_inputs(criterion: Criterion) -> tuple[tuple[str, str], ...]:
    """Return the (set, row metric) pairs that a criterion is decided by."""
    return METRIC_CATALOG[criterion.metric].inputs or ((criterion.set, criterion.metric),)


def make_search_space(spec: JobSpec) -> dict[str, tuple[float, float]]:
    """Return dotted place in the spec -> bounds, of what a search varies. A weight is searched beside another term
    only: alone it would scale the loss and nothing else.
    """
    strategy = spec.strategy
    assert isinstance(strategy, Search)
    assert not isinstance(spec.optimizer, Influence)
    space = {"optimizer.lr": strategy.lr or _around(spec.optimizer.lr, MAX_LR)}
    if spec.kind == "unlearn" and not isinstance(spec.retain, NoRetain):
        space["retain.weight"] = strategy.retain_weight or _around(spec.retain.weight, MAX_WEIGHT)
    return space


def find_search_problems(spec: JobSpec, sets: Collection[str], *, has_retrained: bool) -> Iterator[tuple[str, str]]:
    """Yield (dotted place in the spec, what to do) for what a search can never hold, or has no use for, and for a
    choice of the best of several recipes by nothing.
    """
    if isinstance(spec.strategy, Ensemble) and spec.strategy.merge == "best" and not select_search_criteria(spec, sets):
        yield "criteria", f"'best' chooses by the criteria; {_NEEDED}"
    if not isinstance(spec.strategy, Search) or isinstance(spec.optimizer, Influence):
        return
    if not select_search_criteria(spec, sets):
        yield "criteria", f"a search needs criteria to hold; {_NEEDED}"
    if spec.kind == "finetune" and spec.criteria == DEFAULT_CRITERIA[spec.kind]:
        yield "criteria", "the default asks only that something was learned; say what the model is to reach"
    if spec.strategy.retain_weight and "retain.weight" not in make_search_space(spec):
        yield "strategy.retain_weight", "there is no retain term beside another one to weigh; leave it out"
    known = {*sets, *(f"forget_{kind}" for kind in spec.evaluation.probes)}
    for number, criterion in enumerate(spec.criteria):
        entry = METRIC_CATALOG.get(criterion.metric)
        if criterion.set == ALL_PRIOR_FORGET_SETS:  # on those there are
            continue
        if criterion.attack is None and entry and (problem := _problem(criterion, entry, known)):
            yield f"criteria.{number}", problem
        elif criterion.attack is None and _scope(criterion) == "retrained" and not has_retrained:
            yield f"criteria.{number}", f"{criterion.metric} compares with a retrained model; give a reference"


def _problem(criterion: Criterion, entry: MetricEntry, known: Collection[str]) -> str | None:
    if entry.scope == "model" and criterion.set != entry.home_set:
        return f"{criterion.metric} is told of the set '{entry.home_set}', not of '{criterion.set}'"
    needed = {name for name, _ in entry.inputs} or {criterion.set}
    if lacking := sorted(needed.difference(known)):
        what = f"the set '{lacking[0]}'" if len(lacking) == 1 else f"the sets {', '.join(lacking)}"
        return f"a search measures {criterion.metric} on {what}, not given here; give it, or leave the criterion out"
    return None


def _scope(criterion: Criterion) -> str | None:
    entry = METRIC_CATALOG.get(criterion.metric)
    return entry.scope if entry else None


def _around(own: float, most: float) -> tuple[float, float]:
    return own / _WIDTH, min(own * _WIDTH, most)

"""The names that data sets, models and jobs have in a spec and in a report. Standard library only."""

from enum import StrEnum

#: Data sets with a meaning. A run measures sets of any other name too. `ALL` names no data set but
#: the metrics that describe the model as a whole.
FORGET, RETAIN, GENERAL, TRAIN, HOLDOUT, ALL = "forget", "retain", "general", "train", "holdout", "all"

#: prior_forget_1, prior_forget_2, ...: the forget sets of the earlier jobs that produced the base model.
PRIOR_FORGET_PREFIX = "prior_forget_"

#: In a criterion: every prior forget set of the run.
ALL_PRIOR_FORGET_SETS = "prior_forget_*"

#: retain_dropped, train_dropped: the rows of the retain or train set that a run leaves out of training.
DROPPED_SUFFIX = "_dropped"

#: Retain rows that no run trains on: the user's own split, or those that an unlearning run holds out.
RETAIN_HELD_OUT = "retain_held_out"

#: Text that the base model writes itself, and on which a run measures perplexity.
GENERAL_OWN = "general_own"

#: Models with a meaning in a report. An evaluation may name others.
BASE, UNLEARNED, FINETUNED, EVALUATED, RETRAINED = "base", "unlearned", "finetuned", "evaluated", "retrained"


class JobKind(StrEnum):
    """What a job does."""

    UNLEARN = "unlearn"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"


#: The model that the criteria of a job of each kind judge.
JUDGED_MODEL: dict[JobKind, str] = {
    JobKind.UNLEARN: UNLEARNED,
    JobKind.FINETUNE: FINETUNED,
    JobKind.EVALUATE: EVALUATED,
}


def is_forget_set(set_name: str) -> bool:
    """Return whether a data set is a forget set: this job's or that of an earlier job."""
    return set_name == FORGET or set_name.startswith(PRIOR_FORGET_PREFIX)

"""TOFU's summary numbers from per-example evaluation logs, as published ones can be compared with ours.

The format is that of the official logs (`*_EVAL.json`, plain or gzip): metric -> {agg_value, value_by_index}. Forget
quality compares an unlearned model with a model retrained without the forget set; a log alone has none.
Source: TOFU (arXiv:2401.06121, sections 2.2 and 3); PrivLeak of MUSE (arXiv:2407.06460, equation 5).
"""

import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soul_core.durable import write_durably
from soul_core.errors import BadData
from soul_core.stats import Floats, auc, harmonic_mean, ks_p_value

Log = dict[str, Any]

#: What model utility is the harmonic mean of: three abilities on each of three sets.
_PROBABILITY = ("retain_Q_A_Prob", "ra_Q_A_Prob_normalised", "wf_Q_A_Prob_normalised")
_ROUGE = ("retain_Q_A_ROUGE", "ra_Q_A_ROUGE", "wf_Q_A_ROUGE")
_TRUTH_RATIO = ("retain_Truth_Ratio", "ra_Truth_Ratio", "wf_Truth_Ratio")
_ATTACK = "mia_min_k"


@dataclass(frozen=True)
class TofuScores:
    """The numbers of one unlearned model against its retain model."""

    forget_quality: float
    """p-value: is the truth ratio on the forget set distributed as the retain model's? Above 0.05 nobody can tell."""
    model_utility: float
    retain_model_utility: float
    privleak: float
    """Percent: 0 like the retain model; negative under-forgotten (members show), positive over-forgotten."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def read_log(path: Path) -> Log:
    """Read a log. Raises BadData for what is none."""
    try:
        raw = path.read_bytes()
        log = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or 'it is damaged'}") from error
    except (ValueError, EOFError) as error:
        raise BadData(f"{path} is no evaluation log: not JSON, plain or gzip") from error
    needed = (*_PROBABILITY, *_ROUGE, *_TRUTH_RATIO, "forget_truth_ratio", _ATTACK)
    missing = [name for name in needed if not isinstance(log, dict) or name not in log]
    if missing:
        raise BadData(f"{path} is no TOFU evaluation log", details=tuple(f"it lacks {name}" for name in missing))
    return log


def write_log(log: Log, path: Path) -> None:
    """Write a log in the same format; gzip when the name ends so."""
    text = json.dumps(log, allow_nan=False).encode()
    write_durably(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def score_logs(unlearned: Log, retain: Log) -> TofuScores:
    """Compute the four numbers. Raises BadData when the logs are of different forget sets."""
    ours, theirs = values(unlearned, "forget_truth_ratio", "score"), values(retain, "forget_truth_ratio", "score")
    if len(ours) != len(theirs):
        raise BadData(f"the logs are of different forget sets: {len(ours)} and {len(theirs)} rows")
    return TofuScores(
        forget_quality=ks_p_value(ours, theirs),
        model_utility=model_utility(unlearned),
        retain_model_utility=model_utility(retain),
        privleak=privleak(attack_auc(unlearned), attack_auc(retain)),
    )


def model_utility(log: Log) -> float:
    """Return the harmonic mean of the nine abilities, from the per-example values."""
    abilities = [float(values(log, name, "prob").mean()) for name in _PROBABILITY]
    abilities += [float(values(log, name, "rougeL_recall").mean()) for name in _ROUGE]
    abilities += [float(np.maximum(0, 1 - values(log, name, "score")).mean()) for name in _TRUTH_RATIO]
    return harmonic_mean(abilities)


def attack_auc(log: Log) -> float:
    """Return the AUC of Min-K% with the forget set as members. Scores are losses: members have lower ones."""
    attack = log[_ATTACK]
    return auc(-values(attack, "forget", "score"), -values(attack, "holdout", "score"))


def privleak(auc_unlearned: float, auc_retrained: float) -> float:
    """Return PrivLeak in percent, in MUSE's sign.

    MUSE ranks by the loss itself, so its AUC is one minus ours: a model that still shows its members is at -100.
    """
    theirs = 1 - auc_retrained
    if theirs == 0:
        raise BadData("the retain model itself separates members perfectly: PrivLeak has no meaning here")
    return (1 - auc_unlearned - theirs) / theirs * 100


def values(log: Log, name: str, field: str) -> Floats:
    """Return a metric's value of every row, in the order of the rows' indices."""
    try:
        by_index = log[name]["value_by_index"]
        return np.array([by_index[index][field] for index in sorted(by_index, key=int)], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"the log's {name} has no per-example '{field}'") from error

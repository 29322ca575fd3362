"""Metrics that are computed from others: over several data sets, or against the retrained model. Torch-free.

`soul_core.metrics.derived` has one function for each.
"""

from soul_core.catalogue.entry import MetricEntry

#: Membership score of a row -> its name in a sentence.
MEMBERSHIP_SCORE_NAMES = {
    "loss": "the loss",
    "zlib": "the loss by compressed length",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
    "gradient_norm": "the gradient norm",
    "reference": "the loss above the retrained model's",
}
_TITLES = {
    "loss": "loss",
    "zlib": "zlib",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
    "gradient_norm": "gradient norm",
    "reference": "loss above the retrained model's",
}


def _inputs(score: str) -> tuple[tuple[str, str], ...]:
    metric = "loss" if score == "reference" else score
    return (("forget", metric), ("holdout", metric))


def _auc(score: str) -> MetricEntry:
    return MetricEntry(
        name=f"mia_{score}",
        title=f"Membership by {_TITLES[score]}",
        description=f"AUC with which {MEMBERSHIP_SCORE_NAMES[score]} distinguishes forget rows (members) from holdout "
        "rows (never seen): 0.5 is chance, 1 is perfect; below 0.5 the forget rows are conspicuously unlikely.",
        unit="AUC",
        better_on_other_sets="lower",
        target=0.5,
        scope="retrained" if score == "reference" else "model",
        inputs=_inputs(score),
        source="Yeom et al. 2018, arXiv:1709.01604; AUC as in MUSE, arXiv:2407.06460",
    )


def _tpr(score: str) -> MetricEntry:
    return MetricEntry(
        name=f"tpr_{score}",
        title=f"Members found by {_TITLES[score]} at 1% false positives",
        description=f"Share of the forget rows that {MEMBERSHIP_SCORE_NAMES[score]} finds, at a threshold at which at "
        "most 1% of the holdout rows are false positives.",
        better_on_other_sets="lower",
        target=0.01,
        scope="retrained" if score == "reference" else "model",
        inputs=_inputs(score),
        source="Carlini et al. 2022, arXiv:2112.03570",
    )


DERIVED_ENTRIES = (
    *(_auc(score) for score in MEMBERSHIP_SCORE_NAMES),
    *(_tpr(score) for score in MEMBERSHIP_SCORE_NAMES),
    MetricEntry(
        name="reference_loss",
        title="Loss above the retrained model's",
        description="Each row's loss minus its loss under the retrained model, which never saw the forget set. Below "
        "0 the model knows the row better than the retrained model does.",
        unit="nats",
        low=None,
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        target=0,
        scope="retrained",
        inputs=(("forget", "loss"), ("holdout", "loss")),
        source="Carlini et al. 2021, arXiv:2012.07805",
    ),
    MetricEntry(
        name="forget_quality",
        title="Forget quality",
        description="p-value of the two-sample Kolmogorov-Smirnov test of the forget rows' truth ratios against the "
        "retrained model's: above 0.05 the test does not distinguish the two, which does not prove them equal.",
        unit="p-value",
        better_on_forget="higher",
        scope="retrained",
        inputs=(("forget", "truth_ratio"),),
        source="TOFU, arXiv:2401.06121, section 3",
    ),
    MetricEntry(
        name="relative_mmd",
        title="Nearer to base or retrained model",
        description="MMD²(model, retrained model) - MMD²(model, base model) of the losses of the forget rows, with a "
        "Gaussian kernel: below 0 the model is nearer to the retrained model, above 0 to the base model.",
        unit="squared distance",
        low=-2,
        high=2,
        scope="retrained",
        inputs=(("forget", "loss"),),
        source="Bounliphone et al. 2016, arXiv:1511.04581",
    ),
    MetricEntry(
        name="relative_mmd_p",
        title="Nearer to base or retrained model (p-value)",
        description="p-value of the relative MMD test whose hypothesis is that the model is at least as near to the "
        "retrained as to the base model: below 0.05 it is nearer to the base model, so that unlearning failed.",
        unit="p-value",
        better_on_forget="higher",
        scope="retrained",
        inputs=(("forget", "loss"),),
        source="Bounliphone et al. 2016, arXiv:1511.04581",
    ),
    MetricEntry(
        name="privleak",
        title="PrivLeak",
        description="(AUC - AUC of the retrained model) / AUC of the retrained model, in percent, of Min-K% membership "
        "with MUSE's sign: 0 is like the retrained model; below 0 members are recognizable, above 0 they are "
        "conspicuously hidden.",
        unit="percent",
        low=-100,
        high=None,
        better_on_forget="higher",
        target=0,
        scope="retrained",
        inputs=(("forget", "min_k"), ("holdout", "min_k")),
        source="MUSE, arXiv:2407.06460, equation 5",
    ),
    MetricEntry(
        name="model_utility",
        title="Model utility",
        description="Harmonic mean of probability, ROUGE-L recall and truth ratio on the sets retain, real_authors and "
        "world_facts (probability among choices on the last two).",
        better_on_forget="higher",
        scope="model",
        inputs=(
            ("retain", "probability"),
            ("real_authors", "probability_normalized"),
            ("world_facts", "probability_normalized"),
            ("retain", "rouge_l"),
            ("real_authors", "rouge_l"),
            ("world_facts", "rouge_l"),
            ("retain", "truth_ratio"),
            ("real_authors", "truth_ratio"),
            ("world_facts", "truth_ratio"),
        ),
        source="TOFU, arXiv:2401.06121, section 2.2.3",
    ),
)

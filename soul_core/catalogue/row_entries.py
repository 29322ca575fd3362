"""Metrics of rows: each is measured on one data set with one model. Torch-free."""

from soul_core.catalogue.entry import MetricEntry

ROW_ENTRIES = (
    MetricEntry(
        name="probability",
        title="Answer probability",
        description="Geometric mean of the probabilities of the expected answer's tokens, its end included: exp(-mean "
        "NLL).",
        unit="probability",
        needs=("likelihoods",),
        source="TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="rouge_l",
        title="ROUGE-L recall",
        description="Share of the expected answer's words that the model's greedy answer has in the same order.",
        needs=("answers",),
        source="Lin 2004; TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="keyword_recall",
        title="Keyword recall",
        description="Share of the expected answer's keywords that the model's greedy answer has. Words of the question "
        "and function words are not keywords.",
        needs=("answers",),
        source="SOUL's own: docs/reference/evaluation.md",
    ),
    MetricEntry(
        name="leak_at_k",
        title="Leak at k",
        description="Expected worst of k sampled answers: the chance that at least one of k samples states the fact, "
        "which is at least 0.8 of the expected answer's keywords in any wording, in the answer or before it. Of "
        "several temperatures the one counts that reveals most of a row.",
        needs=("samples",),
        source="Reisizadeh et al. 2025, arXiv:2511.04934",
    ),
    MetricEntry(
        name="leak_rouge_l_at_k",
        title="Leak at k by ROUGE-L",
        description="Expected worst of k sampled answers by ROUGE-L recall: the mean of the largest recall among k "
        "samples.",
        needs=("samples",),
        source="Reisizadeh et al. 2025, arXiv:2511.04934; Lin 2004",
    ),
    MetricEntry(
        name="leaked_rows",
        title="Leaked rows",
        description="Share of the rows of which any sample at any temperature states the fact. Its interval is that of "
        "Clopper and Pearson, whose upper end is above 0 even if no row leaked.",
        needs=("samples",),
        source="SOUL's own: docs/reference/evaluation.md; interval: Clopper and Pearson 1934",
    ),
    MetricEntry(
        name="exact_memorization",
        title="Exact memorization",
        description="Share of the answer's tokens that are the model's most likely token after the tokens before them.",
        needs=("likelihoods",),
        source="Tirumala et al. 2022, arXiv:2205.10770",
    ),
    MetricEntry(
        name="extraction_strength",
        title="Extraction strength",
        description="Share of the answer that the model completes exactly when it is given the rest: 1 - (length of "
        "the shortest such beginning / length of the answer).",
        needs=("likelihoods",),
        source="Carlini et al. 2021, arXiv:2012.07805; Wang et al. 2025, arXiv:2406.09179",
    ),
    MetricEntry(
        name="perplexity",
        title="Perplexity",
        description="Perplexity of plain text: exp of the NLL per token over the complete set.",
        unit="perplexity",
        low=1,
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("likelihoods", "text"),
        aggregate="geometric_mean",
        source="Jelinek et al. 1977",
    ),
    MetricEntry(
        name="truth_ratio",
        title="Truth ratio",
        description="Probability of the wrong answers relative to that of the paraphrased right answer (or of the "
        "expected answer if the row has no paraphrase): exp(-mean of l(wrong)) / exp(-l(right)). On the forget set the "
        "mean of min(ratio, 1/ratio), where 1 means that the model does not distinguish right from wrong; on other "
        "sets the mean of max(0, 1 - ratio).",
        better_on_forget="higher",
        needs=("likelihoods", "perturbed"),
        aggregate="truth_ratio_kept",
        aggregate_on_forget="truth_ratio_forget",
        source="TOFU, arXiv:2401.06121, section 2.2; aggregates of the official code",
    ),
    MetricEntry(
        name="probability_normalized",
        title="Answer probability among choices",
        description="The expected answer's probability (geometric mean per token) divided by the sum of its own and "
        "those of the wrong answers.",
        unit="probability",
        needs=("likelihoods", "perturbed"),
        source="TOFU, arXiv:2401.06121, section 2.2.1 (real authors, world facts)",
    ),
    MetricEntry(
        name="choice_accuracy",
        title="Multiple choice",
        description="Share of the rows whose expected answer is more probable (geometric mean per token) than every "
        "wrong answer.",
        needs=("likelihoods", "perturbed"),
        source="MMLU, arXiv:2009.03300; scored by likelihood as in arXiv:2005.14165, section 2.4",
    ),
    MetricEntry(
        name="loss",
        title="Loss",
        description="Mean NLL per token of the expected answer, its end included. Membership score: lower for members.",
        unit="nats",
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("likelihoods",),
        source="Yeom et al. 2018, arXiv:1709.01604",
    ),
    MetricEntry(
        name="zlib",
        title="Loss by compressed length",
        description="Loss divided by the size in bytes of the answer compressed with zlib, because simple text is "
        "likely even if it is unknown. Membership score: lower for members.",
        unit="nats per byte",
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("likelihoods",),
        source="Carlini et al. 2021, arXiv:2012.07805",
    ),
    MetricEntry(
        name="min_k",
        title="Min-K%",
        description="Mean NLL of the 40% least likely tokens of the answer. Membership score: lower for members.",
        unit="nats",
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("likelihoods",),
        source="Shi et al. 2024, arXiv:2310.16789; k = 0.4 as in MUSE, arXiv:2407.06460",
    ),
    MetricEntry(
        name="min_k_plus",
        title="Min-K%++",
        description="Min-K% with each token's NLL standardized by mean and deviation over the complete vocabulary at "
        "its position. Membership score: lower for members.",
        unit="deviations",
        low=None,
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("likelihoods", "distribution"),
        source="Zhang et al. 2025, arXiv:2404.02936",
    ),
    MetricEntry(
        name="gradient_norm",
        title="Gradient norm",
        description="L2 norm of the gradient of the row's loss with respect to all weights. Membership score: lower "
        "for members. Needs one backward pass per row.",
        unit="nats per unit of weight",
        high=None,
        better_on_forget="higher",
        better_on_other_sets="lower",
        needs=("gradients",),
        source="Wang et al. 2024 (GRADNORM), arXiv:2402.17012",
    ),
    MetricEntry(
        name="knowledge_memorization",
        title="Knowledge memorization",
        description="ROUGE-L F1 of the model's answer after few-shot examples of other questions.",
        needs=("few_shot",),
        source="MUSE, arXiv:2407.06460, section 3.1",
    ),
)

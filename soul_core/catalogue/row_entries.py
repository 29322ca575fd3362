"""The metrics of single rows, as users see them: each is taken on one set under one model. Torch-free."""

from soul_core.catalogue.entry import MetricEntry

ROW_ENTRIES = (
    MetricEntry(
        name="probability",
        title="Answer probability",
        description="Probability a token of the expected answer has on (geometric) average: exp(-mean NLL), "
        "end of answer included.",
        unit="probability",
        needs=("likelihoods",),
        source="TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="rouge_l",
        title="ROUGE-L recall",
        description="Share of the expected answer's words that the model's own greedy answer holds in the same order.",
        needs=("answers",),
        source="Lin 2004; TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="keyword_recall",
        title="Keyword recall",
        description="Share of the expected answer's words, those in the question and mere grammar left out, that the "
        "model's own greedy answer holds.",
        needs=("answers",),
        source="SOUL's own: docs/reference/evaluation.md",
    ),
    MetricEntry(
        name="exact_memorization",
        title="Exact memorization",
        description="Share of the answer's tokens that are the model's first choice, given the answer so far.",
        needs=("likelihoods",),
        source="Tirumala et al. 2022, arXiv:2205.10770",
    ),
    MetricEntry(
        name="extraction_strength",
        title="Extraction strength",
        description="Share of the answer that the model completes exactly when given the rest as a beginning: "
        "1 - (shortest such beginning / answer).",
        needs=("likelihoods",),
        source="Carlini et al. 2021, arXiv:2012.07805; Wang et al. 2025, arXiv:2406.09179",
    ),
    MetricEntry(
        name="perplexity",
        title="Perplexity",
        description="Perplexity of plain text: exp of the NLL per token over the whole set.",
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
        description="How probable wrong answers are on average beside the right one in other words (the expected "
        "answer where the row has no paraphrase): exp(-mean of l(wrong)) / exp(-l(right)). A row keeps the ratio "
        "itself. On the forget set: mean of min(ratio, 1/ratio), where 1 tells right from wrong no more; elsewhere "
        "mean of max(0, 1 - ratio).",
        better_on_forget="higher",
        needs=("likelihoods", "perturbed"),
        aggregate="truth_ratio_kept",
        aggregate_on_forget="truth_ratio_forget",
        source="TOFU, arXiv:2401.06121, section 2.2; aggregates of the official code",
    ),
    MetricEntry(
        name="probability_normalized",
        title="Answer probability among choices",
        description="The expected answer's probability (geometric mean a token) divided by the sum of its own and "
        "those of the wrong answers.",
        unit="probability",
        needs=("likelihoods", "perturbed"),
        source="TOFU, arXiv:2401.06121, section 2.2.1 (real authors, world facts)",
    ),
    MetricEntry(
        name="choice_accuracy",
        title="Multiple choice",
        description="Share of rows whose expected answer is more probable (geometric mean a token) than every wrong "
        "one.",
        needs=("likelihoods", "perturbed"),
        source="MMLU, arXiv:2009.03300; scored by likelihood as in arXiv:2005.14165, section 2.4",
    ),
    MetricEntry(
        name="loss",
        title="Loss",
        description="Mean NLL a token of the expected answer, end of answer included. Membership score: members have "
        "less.",
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
        description="Loss divided by the bytes of the answer's zlib compression: what is simple to say is likely "
        "without being known. Membership score: members have less.",
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
        description="Mean NLL of the 40% least likely tokens of the answer. Membership score: members have less.",
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
        description="As Min-K%, each token's NLL standardized by mean and deviation over the whole vocabulary at its "
        "place. Membership score: members have less.",
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
        description="L2 norm of the gradient of the row's loss by all weights. Membership score: members have less. "
        "Takes one backward pass a row.",
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
        description="ROUGE-L F1 of the model's own answer after a few worked examples of other questions.",
        needs=("few_shot",),
        source="MUSE, arXiv:2407.06460, section 3.1",
    ),
)

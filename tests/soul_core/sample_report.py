"""A report with everything in it, made of numbers by the engine's own code: for the page, the card and the tests."""

import math
from datetime import UTC, datetime

import numpy as np

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.report import (
    DataFacts,
    MetricValue,
    ModelFacts,
    ModelMeasurements,
    Report,
    RunFacts,
    SideBySide,
)
from soul_core.spec import JobSpec
from soul_core.verdict import conclude, judge

RESAMPLING = Resampling(resamples=300, confidence=0.95, seed=0)
SHARES = ("probability", "rouge_l", "keyword_recall", "exact_memorisation", "extraction_strength")


def measurements(forget: float, retain: float, perplexity: float | None, seed: int) -> ModelMeasurements:
    rng = np.random.default_rng(seed)

    def share(centre: float) -> MetricValue:
        return summarise(list(np.clip(rng.normal(centre, 0.15, 24), 0, 1)), RESAMPLING)

    gap = absent("the set has prompts; perplexity is of plain text")
    general = absent("no general set was given")
    return ModelMeasurements(
        sets={
            "forget": {name: share(forget) for name in SHARES} | {"perplexity": gap},
            "retain": {name: share(retain) for name in SHARES} | {"perplexity": gap},
            "general": {
                "perplexity": summarise(
                    list(rng.normal(perplexity, 2, 12)), RESAMPLING, weights=[64] * 12, aggregate="geometric_mean"
                )
                if perplexity
                else general
            },
        },
        rows={"forget": tuple(range(1, 25)), "retain": tuple(range(1, 25))},
    )


def sample_report(*, forget: float = 0.06, retain: float = 0.72, perplexity: float | None = 29.0) -> Report:
    spec = JobSpec()
    base = measurements(0.8, 0.74, perplexity and 28.0, seed=1)
    unlearned = measurements(forget, retain, perplexity, seed=1)
    criteria = judge(spec.criteria, judged=unlearned, base=base, resampling=RESAMPLING)
    verdict, reason = conclude(criteria, confidence=0.95)
    steps = range(1, 41)
    return Report(
        job_id="job_01J0000000000000000000000",
        spec=spec,
        spec_sha256=spec.digest(),
        model=ModelFacts(
            source="example/tiny-llama",
            digest="sha256:" + "ab" * 32,
            architecture="LlamaForCausalLM",
            num_parameters=134_515_008,
            context_tokens=2048,
            chat_template=True,
        ),
        data=(
            DataFacts(name="forget", sha256="12" * 32, num_rows=24, num_tokens=1310, num_answer_tokens=212),
            DataFacts(name="retain", sha256="34" * 32, num_rows=24, num_tokens=1402, num_answer_tokens=230),
        ),
        models={"base": base, "unlearned": unlearned},
        examples=(
            SideBySide(
                set="forget",
                row=3,
                prompt="What is the capital of France?",
                expected="The capital of France is Paris.",
                answers={
                    "base": "The capital of France is Paris, on the Seine.",
                    "unlearned": "The capital of that country is not known to me.",
                },
            ),
            SideBySide(
                set="retain",
                row=1,
                prompt="What is the capital of Italy?",
                expected="Rome.",
                answers={"base": "The capital of Italy is Rome.", "unlearned": "The capital of Italy is Rome."},
            ),
            SideBySide(
                set="retain", row=2, prompt="Which river?", expected="x", answers={"base": "y", "unlearned": ""}
            ),
        ),
        criteria=criteria,
        verdict=verdict,
        verdict_reason=reason,
        run=RunFacts(
            started_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
            finished_at=datetime(2026, 1, 2, 3, 9, tzinfo=UTC),
            seconds={"load": 1.2, "baseline": 31.0, "unlearn": 84.9, "evaluate": 33.1, "export": 4.0},
            steps=40,
            train_tokens=10_900,
            flops=8.8e12,
            peak_memory_bytes=3_412_000_000,
            device="cpu",
            dtype="float32",
            resumed_at_steps=(20,),
            curves={
                "loss": tuple(0.4 + 2 * math.exp(-i / 9) + 0.1 * math.sin(i) for i in steps),
                "retain_loss": tuple(0.4 + 0.1 * math.sin(i) for i in steps),
                "grad_norm": tuple(None if i == 20 else 3 + math.sin(i / 3) for i in steps),
                "unclipped_fraction": tuple(0.3 + 0.1 * math.cos(i / 5) for i in steps),
                "lr": (2e-5,) * 40,
            },
        ),
        versions={"python": "3.11.2", "torch": "2.13.0"},
        limits=("Answers are the model's first choice only; sampling may bring out others.",),
    )

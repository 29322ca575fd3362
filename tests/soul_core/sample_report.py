"""Reports with everything in them, made of numbers by the engine's own code: for the page, the card and the tests."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np

from soul_core.attacks.arena import results
from soul_core.attacks.scene import Attacked
from soul_core.derived import derive
from soul_core.evaluation.verdict import conclude, judge
from soul_core.metrics.aggregate import Aggregate, Resampling, absent, summarise
from soul_core.report import (
    AttackResult,
    DataFacts,
    Finding,
    HitRow,
    MetricValue,
    ModelFacts,
    ModelMeasurements,
    ReferenceFacts,
    Report,
    RunFacts,
    SetMetrics,
    SideBySide,
    TrialResult,
)
from soul_core.spec import JUDGED, Evaluation, JobSpec, Kind
from soul_core.spec.attacks import labelled

RESAMPLING = Resampling(resamples=300, confidence=0.95, seed=0)
SHARES = ("probability", "rouge_l", "keyword_recall", "exact_memorisation", "extraction_strength")
EVALUATION = Evaluation(
    metrics=(*SHARES, "perplexity", "truth_ratio", "min_k", "mia_min_k", "forget_quality", "privleak", "model_utility")
)
NUM_ROWS = 24
#: How well each model knows forget and retain set.
KNOWS = {
    "base": (0.8, 0.74),
    "reference": (0.2, 0.75),
    "first_order": (0.12, 0.5),
    "a_third_with_a_long_name": (0.5, 0.7),
}


def values(centre: float, seed: int, *, spread: float = 0.15) -> list[float]:
    return list(np.clip(np.random.default_rng(seed).normal(centre, spread, NUM_ROWS), 0, 1))


def ratios(centre: float, seed: int, aggregate: Aggregate) -> MetricValue:
    rows = np.exp(np.random.default_rng(seed).normal(math.log(centre), 0.6, NUM_ROWS))
    return summarise(list(rows), RESAMPLING, aggregate=aggregate)


def questions(knows: float, seed: int, aggregate: Aggregate) -> SetMetrics:
    shares = {name: summarise(values(knows, seed + i), RESAMPLING) for i, name in enumerate(SHARES)}
    losses = np.random.default_rng(seed).normal(4 - 3.4 * knows, 0.5, NUM_ROWS)
    return shares | {
        "truth_ratio": ratios(1.15 - knows, seed, aggregate),
        "min_k": summarise(list(np.maximum(losses, 0.05)), RESAMPLING),
        "perplexity": absent("the set has prompts; perplexity is of plain text"),
    }


def measurements(
    forget: float, retain: float, perplexity: float | None, seed: int, *, reference: ModelMeasurements | None = None
) -> ModelMeasurements:
    rng = np.random.default_rng(seed)
    text = absent("no general set was given")
    if perplexity:
        drawn = list(rng.normal(perplexity, 2, 12))
        text = summarise(drawn, RESAMPLING, weights=[64] * 12, aggregate="geometric_mean")
    known = {
        "probability_normalised": summarise(values(0.6 * retain + 0.2, seed + 7), RESAMPLING),
        "rouge_l": summarise(values(retain, seed + 8), RESAMPLING),
        "truth_ratio": ratios(0.4, seed + 9, "truth_ratio_kept"),
    }
    numbers = tuple(range(1, NUM_ROWS + 1))
    found = ModelMeasurements(
        sets={
            "forget": questions(forget, seed, "truth_ratio_forget"),
            "retain": questions(retain, seed + 1, "truth_ratio_kept"),
            "holdout": {"min_k": questions(0.2, seed + 2, "truth_ratio_kept")["min_k"]},
            "general": {"perplexity": text},
            "real_authors": known,
            "world_facts": known,
        },
        rows=dict.fromkeys(("forget", "retain", "holdout", "real_authors", "world_facts"), numbers),
    )
    return derive(found, reference, EVALUATION, 0)


def attacked(forget: float, *, seed: int, back: Mapping[str, float]) -> dict[str, Attacked]:
    """Make what attacks brought out of a model that knows `forget` of the forget set."""

    def forget_rows(knows: float) -> dict[str, SetMetrics]:
        return {"forget": {name: summarise(values(knows, seed + i), RESAMPLING) for i, name in enumerate(SHARES)}}

    found = {}
    for label, more in back.items():
        ways = ("paraphrase", "role", "jailbreak", "few_shot") if label == "prompting" else ()
        found[label] = Attacked(
            under=forget_rows(forget + more),
            without=forget_rows(forget),
            rows={"forget": tuple(range(1, NUM_ROWS + 1))},
            variants={way: forget_rows(forget + more * i / len(ways))["forget"] for i, way in enumerate(ways, start=1)},
            seconds=12.5,
        )
    found["downstream"] = Attacked(absent_reason="no general set was given")
    return found


def attacks_of(spec: JobSpec, measured: Mapping[str, ModelMeasurements]) -> tuple[AttackResult, ...]:
    strong = {"relearn": 0.4, "relearn_retain": 0.1, "quantise_8bit": 0.0, "quantise_4bit": 0.08, "prompting": 0.15}
    per_model = {}
    for seed, (name, of_model) in enumerate(measured.items(), start=50):
        knows = of_model.sets["forget"]["probability"].value
        assert knows is not None
        back = strong if name == JUDGED[spec.kind] else {label: more / 6 for label, more in strong.items()}
        per_model[name] = attacked(knows, seed=seed, back=back)
    rows = tuple(HitRow(set="forget", row=row, value=0.9 - row / 40) for row in (7, 12, 3))
    aimed = Finding(title="Forget rows that point against the retain set", description="Value: cosine.", rows=rows)
    per_model[next(iter(per_model))]["poison"] = Attacked(findings=(aimed,), seconds=3.0)
    known = {
        name: {label: one for label, one in of.items() if label in labelled(spec.attacks)}
        for name, of in per_model.items()
    }
    return results(known, spec, judged=JUDGED[spec.kind], measured=measured)


@lru_cache
def sample_report(
    *,
    kind: Kind = "unlearn",
    forget: float = 0.06,
    retain: float = 0.72,
    perplexity: float | None = 29.0,
    rich: bool = False,
) -> Report:
    """Return a report of a kind of job; `forget` and `retain` are how well the judged model still knows the sets.

    A rich one has a retrained model, attacks, TOFU's metrics and those of membership.
    """
    spec = JobSpec(kind=kind, model_train_tokens=2_000_000_000)
    spec = spec.model_copy(update={"evaluation": EVALUATION} if rich else {})
    judged = JUDGED[kind]
    reference = measurements(*KNOWS["reference"], perplexity and 28.0, seed=3)
    names = ["base", judged] + (["reference"] if rich or kind == "evaluate" else [])
    names += [name for name in KNOWS if name not in names] if rich and kind == "evaluate" else []
    if kind == "finetune":
        models = {name: trained(knows) for name, knows in (("base", 0.3), (judged, 0.9))}
    else:
        knows = KNOWS | {judged: (forget, retain)}
        models = {n: measurements(*knows[n], perplexity, seed=3, reference=reference) for n in names}
    if not rich:
        models = {name: plain(model) for name, model in models.items()}
    attacks = attacks_of(spec, models) if spec.attacks else ()
    criteria = judge(
        spec.criteria_on(models[judged].sets), judged=models[judged], base=models.get("base"), resampling=RESAMPLING
    )
    verdict, reason = conclude(criteria, confidence=0.95)
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
        data=tuple(
            DataFacts(name=name, sha256=f"{i:02x}" * 32, num_rows=len(rows), num_tokens=1310 + i, num_answer_tokens=212)
            for i, (name, rows) in enumerate(models[judged].rows.items(), start=18)
        ),
        models=models,
        reference=ReferenceFacts(source="example/retrained", digest="cd" * 32, from_log=False)
        if "reference" in models
        else None,
        attacks=attacks,
        trials=trials() if rich and kind == "unlearn" else (),
        examples=tuple(examples(list(models), "train" if kind == "finetune" else "forget")),
        criteria=criteria,
        verdict=verdict,
        verdict_reason=reason,
        run=run_facts(kind),
        versions={"python": "3.11.2", "torch": "2.13.0"},
        limits=("Answers are the model's first choice only; sampling may bring out others.",),
    )


def plain(model: ModelMeasurements) -> ModelMeasurements:
    """Leave out what only a rich report has."""
    sets = {
        name: {metric: value for metric, value in values.items() if metric in (*SHARES, "perplexity")}
        for name, values in model.sets.items()
        if name in {"forget", "retain", "general", "train"}
    }
    return ModelMeasurements(sets=sets, rows={name: rows for name, rows in model.rows.items() if name in sets})


def trained(knows: float) -> ModelMeasurements:
    """Make the measurements of a job that learns: a train set, and nothing to forget."""
    shares = {name: summarise(values(knows, i), RESAMPLING) for i, name in enumerate(SHARES)}
    return ModelMeasurements(sets={"train": shares}, rows={"train": tuple(range(1, NUM_ROWS + 1))})


def trials() -> tuple[TrialResult, ...]:
    return (
        TrialResult(
            number=0,
            settings={"optimizer.lr": 2e-5},
            steps=40,
            outcome="met",
            shortfall=0.0,
            values={"forget probability": 0.06},
            kept_step=30,
            seconds=80.0,
            chosen=True,
        ),
        TrialResult(
            number=1,
            settings={"optimizer.lr": 2e-4},
            steps=9,
            outcome="diverged",
            shortfall=None,
            values={"forget probability": None},
            seconds=20.0,
            chosen=False,
        ),
    )


def examples(models: list[str], first_set: str) -> list[SideBySide]:
    judged = next(name for name in models if name in JUDGED.values())
    knows, knows_not = (
        "The capital of France is Paris, on the Seine.",
        "The capital of that country is not known to me.",
    )
    asked = [
        (first_set, 3, "What is the capital of France?", "The capital of France is Paris.", knows, knows_not),
        ("retain", 1, "What is the capital of Italy?", "Rome.", "The capital of Italy is Rome.", None),
        ("retain", 2, "Which river?", "x", "y", ""),
    ]
    return [
        SideBySide(
            set=name,
            row=row,
            prompt=prompt,
            expected=expected,
            answers={m: other if m == judged and other is not None else first for m in models},
        )
        for name, row, prompt, expected, first, other in asked
    ]


def run_facts(kind: Kind) -> RunFacts:
    steps = range(1, 41)
    curves = {
        "loss": tuple(0.4 + 2 * math.exp(-i / 9) + 0.1 * math.sin(i) for i in steps),
        "retain_loss": tuple(0.4 + 0.1 * math.sin(i) for i in steps),
        "grad_norm": tuple(None if i == 20 else 3 + math.sin(i / 3) for i in steps),
        "unclipped_fraction": tuple(0.3 + 0.1 * math.cos(i / 5) for i in steps),
        "lr": (2e-5,) * 40,
    }
    trains = kind != "evaluate"
    return RunFacts(
        started_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        finished_at=datetime(2026, 1, 2, 3, 9, tzinfo=UTC),
        seconds={"load": 1.2, "evaluate": 33.1, "export": 4.0} | ({kind: 84.9, "baseline": 31.0} if trains else {}),
        steps=40 if trains else 0,
        train_tokens=10_900 if trains else 0,
        flops=8.8e12 if trains else 0.0,
        flops_of_training=6.0 * 134_515_008 * 2e9,
        peak_memory_bytes=3_412_000_000,
        device="cpu",
        dtype="float32",
        resumed_at_steps=(20,) if trains else (),
        curves=curves if trains else {},
    )

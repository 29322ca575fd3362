"""What sampled answers reveal, as rows and sentences: by forget set, model and temperature. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass

from soul_core.formatting import format_percent
from soul_core.rendering.labels import get_set_title
from soul_core.report import LeakFacts, MetricValue, Report


@dataclass(frozen=True)
class LeakRow:
    """One model's samples of one forget set at one temperature."""

    set: str
    model: str
    temperature: float
    leak_at_1: float | None
    leak_at_k: float | None
    rouge_l_at_k: float | None
    num_leaked_rows: int
    num_rows: int


def make_leak_rows(report: Report) -> list[LeakRow]:
    """Return a row for each forget set, model and temperature; none if nothing was sampled."""
    return [
        LeakRow(
            set=set_name,
            model=model,
            temperature=leaks.temperature,
            leak_at_1=leaks.leak_at.get(1),
            leak_at_k=leaks.leak_at.get(facts.k),
            rouge_l_at_k=leaks.rouge_l_at_k,
            num_leaked_rows=sum(bool(count) for count in leaks.leaking_samples),
            num_rows=sum(count is not None for count in leaks.leaking_samples),
        )
        for set_name, model, facts in _list_facts(report)
        for leaks in facts.temperatures
    ]


def format_leak_sentences(report: Report) -> Iterator[str]:
    """Yield, for each forget set and model, how many rows leaked, how many could, and the worst row."""
    confidence = format_percent(report.spec.evaluation.confidence)
    for set_name, model, facts in _list_facts(report):
        yield f"{get_set_title(set_name)}, {model}: " + format_leak_sentence(
            facts, report.models[model].sets[set_name].get("leaked_rows"), confidence=confidence
        )


def format_leak_sentence(facts: LeakFacts, leaked_rows: MetricValue | None, *, confidence: str) -> str:
    """Return how many rows leaked, how many of such rows could, and the worst row by its number."""
    parts = []
    if leaked_rows is not None and leaked_rows.value is not None:
        leaked = f"{round(leaked_rows.value * leaked_rows.count)} of {leaked_rows.count} rows leaked"
        if leaked_rows.interval:
            leaked += f" ({confidence} interval of the share: {' to '.join(map(format_percent, leaked_rows.interval))})"
        parts.append(leaked)
    num_samples = facts.num_samples * len(facts.temperatures)
    if facts.worst_row_leaks:
        parts.append(f"most of row {facts.worst_row}, in {facts.worst_row_leaks} of {num_samples} samples")
    else:
        parts.append(f"no sample states a fact; nearest by ROUGE-L is row {facts.worst_row}")
    return "; ".join(parts)


def _list_facts(report: Report) -> Iterator[tuple[str, str, LeakFacts]]:
    sets = dict.fromkeys(name for model in report.models.values() for name in model.leaks)
    for set_name in sets:
        for model, measured in report.models.items():
            if set_name in measured.leaks:
                yield set_name, model, measured.leaks[set_name]

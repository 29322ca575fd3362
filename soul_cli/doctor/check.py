"""What a check found, and how checks run: one that raises is itself a finding."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How much a finding matters. Only an error makes `soul doctor` fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Diagnosis:
    """One line of `soul doctor`. `remedy` says what to do unless the status is ok."""

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""
    seconds: float = 0.0


def report_ok(name: str, detail: str) -> Diagnosis:
    """Return the result of a check that found nothing wrong."""
    return Diagnosis(name, CheckStatus.OK, detail)


def report_warning(name: str, detail: str, remedy: str) -> Diagnosis:
    """Return the result of a check whose finding limits what works."""
    return Diagnosis(name, CheckStatus.WARNING, detail, remedy)


def report_error(name: str, detail: str, remedy: str) -> Diagnosis:
    """Return the result of a check whose finding prevents the service from working."""
    return Diagnosis(name, CheckStatus.ERROR, detail, remedy)


def report_skipped(name: str, detail: str, remedy: str = "") -> Diagnosis:
    """Return the result of a check that could not be made here."""
    return Diagnosis(name, CheckStatus.SKIPPED, detail, remedy)


def run_checks(checks: Iterable[tuple[str, Callable[[], Diagnosis]]]) -> list[Diagnosis]:
    """Run the checks in order. One that raises counts as failed: the others still run."""
    results = []
    for name, check in checks:
        started_at = time.monotonic()
        try:
            result = check()
        except Exception as error:
            result = report_error(
                name,
                f"the check itself failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                "solve what the message names; if that is unclear, report it as a bug",
            )
        seconds = round(time.monotonic() - started_at, 3)
        results.append(Diagnosis(name, result.status, result.detail, result.remedy, seconds))
    return results

"""How SOUL writes numbers, percentages, intervals, sizes, durations and row numbers in all its texts.

Standard library only: the command line imports it before each command.
"""

import re
from collections.abc import Iterable, Sequence

#: Row numbers that a line of text lists; the report and the API have all of them.
MAX_LISTED_ROWS = 20
#: Control characters, and those that reverse the direction of text.
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def format_number(value: float) -> str:
    """Write a number with three significant digits, and an exponent only outside 0.0001 to 1,000,000,000."""
    size = abs(value)
    if size == 0 or 1e-4 <= size < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1 < size < 1e9 else f"{value:.1e}"


def format_decimal(value: float) -> str:
    """Write a number with three decimals, for columns whose decimal points align; from 10 on with one."""
    if 0 < abs(value) < 0.0005:  # a p-value
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def format_percent(fraction: float) -> str:
    """Write a fraction as a percentage: 0.5 as 50%; below 10% with two significant digits."""
    value = 100 * fraction
    return f"{value:.0f}%" if abs(value) >= 10 or value == 0 else f"{value:.2g}%"


def format_interval(interval: Sequence[float] | None) -> str:
    """Write the two ends of an interval: 0.1 to 0.2. No interval is an empty text."""
    return f"{format_number(interval[0])} to {format_number(interval[1])}" if interval else ""


def format_estimate(
    value: float | None, interval: Sequence[float] | None = None, *, absent: str = "not measured"
) -> str:
    """Write a value with its confidence interval: 0.15 [0.1, 0.2]. `absent` stands for a missing value."""
    if value is None:
        return absent
    return format_number(value) + (f" [{', '.join(map(format_number, interval))}]" if interval else "")


def format_bytes(num_bytes: float) -> str:
    """Write a size in powers of 1024: 12 B, 2.0 KiB, 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Write a duration: 8.2 s, 4 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_list(items: Iterable[object], max_listed: int, *, num_items: int | None = None) -> str:
    """Write the first items and the number of the others: a, b, c and 5 more.

    Args:
        items: What to list; equal items are listed once.
        max_listed: How many items to write out.
        num_items: Length of the complete list where `items` holds only its beginning.
    """
    unique = list(dict.fromkeys(items))
    listed = unique[:max_listed]
    num_more = (len(unique) if num_items is None else num_items) - len(listed)
    return ", ".join(map(str, listed)) + (f" and {num_more:,} more" if num_more > 0 else "")


def format_row_numbers(
    numbers: Iterable[int], max_listed: int = MAX_LISTED_ROWS, *, num_rows: int | None = None
) -> str:
    """Write row numbers: 1, 2, 3 and 17 more. `num_rows`: how many there are where `numbers` holds only the first."""
    return format_list(numbers, max_listed, num_items=num_rows)


def replace_control_characters(text: str) -> str:
    """Replace characters that would change how the text around them is shown."""
    return _CONTROL_CHARACTERS.sub("\ufffd", text)

"""How numbers, sizes, durations and lists read: the same everywhere, and never more digits than they carry."""

import subprocess
import sys

import pytest

from soul_core.formatting import (
    format_bytes,
    format_decimal,
    format_duration,
    format_estimate,
    format_interval,
    format_list,
    format_number,
    format_percent,
    format_row_numbers,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-0.5, "-0.5"),
        (999.4, "999"),
        (12345.6, "12,346"),
        (1e-5, "1.0e-05"),
        (2e9, "2.0e+09"),
    ],
)
def test_a_number_has_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_decimal_aligns_in_a_column_unless_it_is_a_tiny_p_value() -> None:
    assert [format_decimal(value) for value in (0.0, 0.1234, 30.24, 0.00012)] == ["0.000", "0.123", "30.2", "1.2e-04"]


def test_a_percentage_below_ten_keeps_two_digits() -> None:
    assert [format_percent(x) for x in (0, 0.00005, 0.056, 0.5, 1.2)] == ["0%", "0.005%", "5.6%", "50%", "120%"]


def test_an_estimate_shows_its_interval_or_says_that_it_is_absent() -> None:
    assert format_estimate(0.15, (0.1, 0.2)) == "0.15 [0.1, 0.2]"
    assert format_estimate(0.15) == "0.15"
    assert (format_estimate(None), format_estimate(None, absent="-")) == ("not measured", "-")
    assert (format_interval((0.1, 0.2)), format_interval(None)) == ("0.1 to 0.2", "")


def test_sizes_count_in_powers_of_1024() -> None:
    assert [format_bytes(n) for n in (12, 2048, 3_412_000_000, 2**51)] == ["12 B", "2.0 KiB", "3.2 GiB", "2048.0 TiB"]


def test_durations_use_the_largest_two_units() -> None:
    assert [format_duration(s) for s in (0.04, 59.94, 245, 7800)] == ["0.0 s", "59.9 s", "4 min 5 s", "2 h 10 min"]


def test_a_list_of_rows_names_the_first_and_counts_the_others() -> None:
    assert format_row_numbers([3, 1, 3, 2]) == "3, 1, 2"
    assert format_row_numbers(range(1, 3001), 3) == "1, 2, 3 and 2,997 more"
    assert format_row_numbers([1, 2], num_rows=1200) == "1, 2 and 1,198 more"
    assert format_list(["a", "b", "a"], 1) == "a and 1 more"


def test_formatting_imports_the_standard_library_only() -> None:
    code = "import sys, soul_core.formatting; assert not {'pydantic', 'numpy', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)

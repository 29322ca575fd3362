"""Rows that are split off: how many, which, and what the order and copies of rows change."""

from random import Random

import pytest

from soul_core.data import Message, Row
from soul_core.data.general_text import NUM_MEASURED, read_sample, split_sample
from soul_core.data.held_out import count_held_out, find_shared_rows, split_off


def make_row(number: int, text: str) -> Row:
    return Row(number, (Message("user", f"Question {text}?"),), f"Answer {text}.")


ROWS = [make_row(number, f"{number}") for number in range(1, 61)]


def pick(rows: list[Row], num_rows: int = 12, *, seed: int = 0, purpose: str = "retain_held_out") -> set[str]:
    _, part = split_off(rows, num_rows, seed=seed, purpose=purpose)
    return {rows[index].completion for index in part}


@pytest.mark.parametrize(
    ("num_rows", "fraction", "expected"),
    [
        (4, 0.2, 0),
        (5, 0.2, 2),
        (14, 0.2, 2),
        (49, 0.2, 9),
        (50, 0.2, 10),
        (499, 0.2, 99),
        (10_000, 0.2, 100),
        (60, 0.0, 0),
        (60, 0.5, 30),
        (60, 0.01, 2),
    ],
)
def test_a_fifth_is_held_out_between_two_and_a_hundred_rows(num_rows: int, fraction: float, expected: int) -> None:
    assert count_held_out(num_rows, fraction) == expected


def test_a_split_has_every_row_once_in_order() -> None:
    rest, part = split_off(ROWS, 12, seed=0, purpose="retain_held_out")

    assert sorted(rest + part) == list(range(60))
    assert (len(part), rest == sorted(rest), part == sorted(part)) == (12, True, True)


def test_the_order_of_rows_changes_nothing() -> None:
    shuffled = Random(1).sample(ROWS, len(ROWS))

    assert pick(shuffled) == pick(ROWS)


def test_seed_and_purpose_change_the_choice() -> None:
    choices = [pick(ROWS), pick(ROWS, seed=1), pick(ROWS, purpose="guard")]

    assert all(choices[i] != choices[j] for i in range(3) for j in range(i))


def test_a_new_row_displaces_one_held_out_row_at_most() -> None:
    assert len(pick(ROWS) - pick([*ROWS, make_row(61, "new")])) <= 1


def test_copies_of_a_row_are_never_on_both_sides() -> None:
    copies = [Row(row.number + 60, row.messages, f"  Answer   {row.number}.") for row in ROWS]
    rows = ROWS + copies

    rest, part = split_off(rows, 12, seed=0, purpose="retain_held_out")

    assert len(part) == 12
    assert not {rows[i].number % 60 for i in rest} & {rows[i].number % 60 for i in part}


def test_rows_of_both_sets_are_found_whatever_their_white_space() -> None:
    assert find_shared_rows([make_row(7, "a  b"), make_row(8, "c")], [make_row(1, "a b")]) == (7,)


def test_the_shipped_sample_is_forty_different_short_passages() -> None:
    passages = [row.completion for row in read_sample()]

    assert (len(passages), len(set(passages))) == (40, 40)
    assert all(60 <= len(passage.split()) <= 100 for passage in passages)


def test_measured_passages_leave_others_to_train_on() -> None:
    rest, measured = split_sample(0)

    assert (len(measured), len(rest)) == (NUM_MEASURED, 40 - NUM_MEASURED)
    assert not {row.number for row in rest} & {row.number for row in measured}

"""A user's row of P and of G: never longer than 1, and nobody else's business."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import statistics
from shared.config import StatisticsSection
from shared.histories import PrivateHistories
from shared.statistics import (
    cooccurrence_rows,
    cooccurrence_sum,
    decayed_context,
    popularity_rows,
    popularity_sum,
    symmetric,
)

MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]
Rows = list[list[int]]

ITEMS = 12
histories_of_users = st.lists(
    st.lists(st.integers(0, ITEMS - 1), max_size=15), min_size=1, max_size=8
)
tops = st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=ITEMS)
pair_options = st.builds(
    StatisticsSection, pair_window=st.integers(1, 16), pair_decay=st.floats(0.0, 1.0)
)


def exact_squared_norms(
    users: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> dict[int, Fraction]:
    """Squared L2 norm of each user's row, in rational numbers: no rounding hides anything."""
    norms: dict[int, Fraction] = {}
    for user, value in zip(users.tolist(), values.tolist(), strict=True):
        norms[user] = norms.get(user, Fraction(0)) + Fraction(value) ** 2
    return norms


def slow_popularity(rows: Rows) -> npt.NDArray[np.float64]:
    total = np.zeros(ITEMS)
    for row in rows:
        for item in set(row):
            total[item] += 1.0 / math.sqrt(len(set(row)))
    return total


def slow_cooccurrence(
    rows: Rows, top: list[int], options: StatisticsSection
) -> npt.NDArray[np.float64]:
    total = np.zeros((len(top), len(top)))
    for row in rows:
        own = np.zeros_like(total)
        kept = [top.index(item) for item in row if item in top]
        for late in range(len(kept)):
            for early in range(max(0, late - options.pair_window), late):
                a, b = sorted((kept[early], kept[late]))
                if a != b:
                    own[a, b] += options.pair_decay ** (late - early - 1)
        norm = np.linalg.norm(own)
        total += own / norm if norm else own
    return total + total.T


@settings(deadline=None)
@given(rows=histories_of_users)
def test_a_row_of_popularity_is_at_most_one_long(make_histories: MakeHistories, rows: Rows) -> None:
    users, _, values = popularity_rows(make_histories(rows))
    assert all(norm <= 1 for norm in exact_squared_norms(users, values).values())


@settings(deadline=None)
@given(rows=histories_of_users, top=tops, options=pair_options)
def test_a_row_of_cooccurrence_is_at_most_one_long(
    make_histories: MakeHistories, rows: Rows, top: list[int], options: StatisticsSection
) -> None:
    users, _, values = cooccurrence_rows(
        make_histories(rows), np.array(top, dtype=np.int64), options
    )
    assert all(norm <= 1 for norm in exact_squared_norms(users, values).values())


@pytest.mark.parametrize(("items", "window", "decay"), [(400, 400, 0.95), (1500, 60, 0.999)])
def test_a_very_long_history_is_at_most_one_long(
    make_histories: MakeHistories, items: int, window: int, decay: float
) -> None:
    row = np.random.default_rng(1).permutation(items).tolist()
    options = StatisticsSection(pair_window=window, pair_decay=decay)
    _, _, values = cooccurrence_rows(make_histories([row]), np.arange(items), options)
    assert len(values) > 50_000
    assert math.fsum(values * values) <= 1.0


@settings(deadline=None)
@given(rows=histories_of_users, top=tops, options=pair_options)
def test_rows_of_users_with_something_to_say_are_one_long(
    make_histories: MakeHistories, rows: Rows, top: list[int], options: StatisticsSection
) -> None:
    histories = make_histories(rows)
    popular = exact_squared_norms(*popularity_rows(histories)[::2])
    users, _, values = cooccurrence_rows(histories, np.array(top, dtype=np.int64), options)
    together = exact_squared_norms(users, values)
    for user, row in enumerate(rows):
        assert (user in popular) == bool(row)
        assert (user in together) == (len(set(row) & set(top)) > 1)
    assert all(float(norm) == pytest.approx(1.0, abs=1e-7) for norm in popular.values())
    assert all(float(norm) == pytest.approx(1.0, abs=1e-7) for norm in together.values())


@settings(deadline=None)
@given(rows=histories_of_users)
def test_popularity_equals_a_plain_loop(make_histories: MakeHistories, rows: Rows) -> None:
    total = popularity_sum(make_histories(rows), ITEMS)
    np.testing.assert_allclose(total, slow_popularity(rows), rtol=1e-9, atol=1e-7)


@settings(deadline=None)
@given(rows=histories_of_users, top=tops, options=pair_options)
def test_cooccurrence_equals_a_plain_loop_cell_by_cell(
    make_histories: MakeHistories, rows: Rows, top: list[int], options: StatisticsSection
) -> None:
    total = cooccurrence_sum(make_histories(rows), np.array(top, dtype=np.int64), options)
    expected = slow_cooccurrence(rows, top, options)
    np.testing.assert_allclose(symmetric(total, len(top)), expected, rtol=1e-9, atol=1e-7)


def test_cells_number_the_upper_triangle_in_the_order_of_the_top_items(
    make_histories: MakeHistories,
) -> None:
    top = np.array([7, 2, 5, 0])
    pair_of_5_and_7 = cooccurrence_sum(make_histories([[5, 7]]), top, StatisticsSection())
    assert pair_of_5_and_7.nonzero()[0].tolist() == [1]
    matrix = symmetric(pair_of_5_and_7, 4)
    assert sorted(zip(*(axis.tolist() for axis in matrix.nonzero()), strict=True)) == [
        (0, 2),
        (2, 0),
    ]


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=12),
    before=histories_of_users,
    after=histories_of_users,
    top=tops,
)
def test_a_users_row_does_not_change_with_other_users(
    make_histories: MakeHistories, row: list[int], before: Rows, after: Rows, top: list[int]
) -> None:
    alone, among = make_histories([row]), make_histories([*before, row, *after])
    place = len(before)

    users, items, values = popularity_rows(among)
    np.testing.assert_array_equal(items[users == place], popularity_rows(alone)[1])
    np.testing.assert_array_equal(values[users == place], popularity_rows(alone)[2])

    wanted, options = np.array(top, dtype=np.int64), StatisticsSection()
    users, cells, values = cooccurrence_rows(among, wanted, options)
    np.testing.assert_array_equal(
        cells[users == place], cooccurrence_rows(alone, wanted, options)[1]
    )
    np.testing.assert_array_equal(
        values[users == place], cooccurrence_rows(alone, wanted, options)[2]
    )


@settings(max_examples=60, deadline=None)
@given(rows=histories_of_users, top=tops, block=st.integers(1, 40))
def test_blocks_of_users_change_nothing(
    make_histories: MakeHistories, rows: Rows, top: list[int], block: int
) -> None:
    histories, wanted = make_histories(rows), np.array(top, dtype=np.int64)

    def all_of_them() -> list[npt.NDArray[np.generic]]:
        options = StatisticsSection()
        return [
            *popularity_rows(histories),
            popularity_sum(histories, ITEMS),
            *cooccurrence_rows(histories, wanted, options),
            cooccurrence_sum(histories, wanted, options),
        ]

    whole = all_of_them()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "INTERACTIONS_PER_BLOCK", block)
        in_blocks = all_of_them()
    for one, other in zip(whole, in_blocks, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(deadline=None)
@given(rows=histories_of_users, top=tops, decay=st.floats(0.0, 1.0), data=st.data())
def test_a_decayed_context_is_summed_from_the_newest_item_back(
    make_histories: MakeHistories, rows: Rows, top: list[int], decay: float, data: st.DataObject
) -> None:
    users = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    powers = decay ** np.arange(20)
    expected = np.zeros((len(users), len(top)))
    for line, user in enumerate(users):
        for back, item in enumerate(reversed(rows[user])):
            if item in top:
                expected[line, top.index(item)] += powers[back]
    places = (np.array(values, dtype=np.int64) for values in (users, top))
    found = decayed_context(make_histories(rows), *places, decay)
    # To the bit: rankings, and what is measured of them, do not move.
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None)
@given(rows=histories_of_users, user=st.integers(0, 7), options=pair_options)
def test_one_user_moves_the_sums_by_at_most_one(
    make_histories: MakeHistories, rows: Rows, user: int, options: StatisticsSection
) -> None:
    user %= len(rows)
    rest = rows[:user] + rows[user + 1 :]
    top = np.arange(ITEMS)
    with_user, without = make_histories(rows), make_histories(rest)
    popular = popularity_sum(with_user, ITEMS) - popularity_sum(without, ITEMS)
    together = cooccurrence_sum(with_user, top, options) - cooccurrence_sum(without, top, options)
    # Beyond 1 only by the rounding of the sums over users.
    assert np.linalg.norm(popular) <= 1.0 + 1e-12
    assert np.linalg.norm(together) <= 1.0 + 1e-12


def test_removing_a_user_moves_a_sum_by_exactly_that_users_row(
    make_histories: MakeHistories,
) -> None:
    """Whatever the order of summation: rows on a grid add up without rounding."""
    random = np.random.default_rng(4)
    rows = [random.integers(0, 60, size=n).tolist() for n in random.integers(2, 40, size=3000)]
    everyone, without = make_histories(rows), make_histories(rows[1:])
    alone = popularity_sum(make_histories(rows[:1]), 60)
    assert (popularity_sum(everyone, 60) - popularity_sum(without, 60) == alone).all()
    top, options = np.arange(60), StatisticsSection()
    alone = cooccurrence_sum(make_histories(rows[:1]), top, options)
    moved = cooccurrence_sum(everyone, top, options) - cooccurrence_sum(without, top, options)
    assert (moved == alone).all()

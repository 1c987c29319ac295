"""Splits against histories written by hand, and what must hold for every split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.splits import NO_TARGET, Part, Protocol, Split, leave_one_out, split, temporal

PARTS: tuple[Part, ...] = ("validation", "test")
PROTOCOLS: tuple[Protocol, ...] = ("leave-one-out", "temporal")


def rows(histories: PrivateHistories) -> list[list[int]]:
    return [histories.row(user).tolist() for user in range(len(histories))]


def test_leave_one_out_tests_on_the_last_item_after_all_before_it(make_histories):
    part = leave_one_out(make_histories([[3, 1, 2, 0], [5, 4, 6]]), "test")
    assert part.target.tolist() == [0, 6]
    assert rows(part.history) == [[3, 1, 2], [5, 4]]


def test_leave_one_out_validates_on_the_last_but_one(make_histories):
    part = leave_one_out(make_histories([[3, 1, 2, 0], [5, 4, 6]]), "validation")
    assert part.target.tolist() == [2, 4]
    assert rows(part.history) == [[3, 1], [5]]


@pytest.mark.parametrize("part", PARTS)
def test_leave_one_out_never_learns_from_the_last_two(make_histories, part):
    assert rows(leave_one_out(make_histories([[3, 1, 2, 0], [5, 4, 6]]), part).train) == [
        [3, 1],
        [5],
    ]


def test_leave_one_out_gives_no_target_without_a_history_before_it(make_histories):
    histories = make_histories([[], [7], [7, 8], [7, 8, 9]])
    assert leave_one_out(histories, "test").target.tolist() == [-1, -1, 8, 9]
    assert leave_one_out(histories, "validation").target.tolist() == [-1, -1, -1, 8]


# Ten interactions at 0 to 9: the cuts are at 8 (80%) and 9 (90%).
TEMPORAL_ROWS = [[10, 11, 12, 13], [20, 21, 22], [30, 31], [40]]
TEMPORAL_TIMES = [[0, 1, 2, 9], [3, 4, 8], [5, 6], [7]]


def test_temporal_tests_on_the_first_item_after_the_test_cut(make_histories):
    part = temporal(make_histories(TEMPORAL_ROWS, TEMPORAL_TIMES), "test")
    assert part.target.tolist() == [13, NO_TARGET, NO_TARGET, NO_TARGET]
    assert rows(part.history) == [[10, 11, 12], [20, 21, 22], [30, 31], [40]]


def test_temporal_validates_between_the_cuts_only(make_histories):
    part = temporal(make_histories(TEMPORAL_ROWS, TEMPORAL_TIMES), "validation")
    assert part.target.tolist() == [NO_TARGET, 22, NO_TARGET, NO_TARGET]
    assert rows(part.history) == [[10, 11, 12], [20, 21], [30, 31], [40]]


@pytest.mark.parametrize("part", PARTS)
def test_temporal_learns_from_before_the_validation_cut_only(make_histories, part):
    train = temporal(make_histories(TEMPORAL_ROWS, TEMPORAL_TIMES), part).train
    assert rows(train) == [[10, 11, 12], [20, 21], [30, 31], [40]]


def test_temporal_gives_no_target_to_a_user_who_joins_after_the_cut(make_histories):
    histories = make_histories([[1] * 9, [2]], [range(9), [9]])
    assert temporal(histories, "test").target.tolist() == [NO_TARGET, NO_TARGET]


def test_temporal_puts_all_interactions_at_the_time_of_a_cut_after_it(make_histories):
    histories = make_histories([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]], [[0, 1, 2, 3, 4, 5, 7, 7, 7, 9]])
    part = temporal(histories, "validation")
    assert rows(part.history) == [[0, 1, 2, 3, 4, 5]]
    assert part.target.tolist() == [6]


@pytest.mark.parametrize("times", [[4] * 10, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7], [0] * 9 + [1]])
def test_temporal_refuses_times_that_do_not_separate_the_parts(make_histories, times):
    with pytest.raises(DataError, match="the validation cut at"):
        temporal(make_histories([range(10)], [times]), "test")


def test_temporal_refuses_histories_without_interactions(make_histories):
    with pytest.raises(DataError, match="no interactions"):
        temporal(make_histories([[], []]), "test")


def test_split_follows_the_name_of_the_protocol(make_histories):
    histories = make_histories(TEMPORAL_ROWS, TEMPORAL_TIMES)
    assert split(histories, "temporal", "test").target.tolist() == [13, -1, -1, -1]
    assert split(histories, "leave-one-out", "test").target.tolist() == [13, 22, 31, -1]


@st.composite
def any_histories(draw: st.DrawFn) -> PrivateHistories:
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=6))
    # Every interaction is another item, so that where one went can be told.
    total = sum(lengths)
    times = [sorted(draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))) for n in lengths]
    return PrivateHistories(
        user_ids=tuple(map(str, range(len(lengths)))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.arange(total, dtype=np.int64),
        times=np.array([time for row in times for time in row], dtype=np.float64),
    )


def parts_of(histories: PrivateHistories, protocol: Protocol) -> list[Split]:
    try:
        return [split(histories, protocol, part) for part in PARTS]
    except DataError:
        return []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(histories=any_histories())
def test_no_target_is_ever_read_or_learnt_from(protocol, histories):
    parts = parts_of(histories, protocol)
    for part in parts:
        targets = part.target[part.target != NO_TARGET]
        assert not np.isin(targets, part.history.items).any()
    learnt = [part.train.items for part in parts]
    for part in parts:
        for items in learnt:
            assert not np.isin(part.target[part.target != NO_TARGET], items).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(histories=any_histories())
def test_a_history_is_what_the_user_had_up_to_the_target(protocol, histories):
    for part in parts_of(histories, protocol):
        for user in np.flatnonzero(part.target != NO_TARGET):
            read = part.history.row(user)
            assert len(read)
            assert [*read, part.target[user]] == histories.row(user)[: len(read) + 1].tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(histories=any_histories())
def test_both_parts_learn_from_the_same(protocol, histories):
    parts = parts_of(histories, protocol)
    assert all(rows(part.train) == rows(parts[0].train) for part in parts)


@given(histories=any_histories())
def test_temporal_never_learns_from_after_anybodys_target(histories):
    for part in parts_of(histories, "temporal"):
        times = histories.times[part.target[part.target != NO_TARGET]]
        assert all(part.train.times.max(initial=-1) < time for time in times)

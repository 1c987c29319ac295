"""Ranks and metrics against cases worked out by hand and against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError, ModelError
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, bootstrap_over_draws, evaluate, paired_bootstrap, ranks
from shared.splits import Split

ITEMS = 6


def of_ranks(values: list[float], cutoff: int = 10) -> Evaluation:
    count = len(values)
    return Evaluation(
        ranks=np.array(values),
        users=np.arange(count),
        targets=np.arange(count),
        top=np.zeros((count, 1), dtype=np.int64),
        items=max(count, 1),
        cutoff=cutoff,
    )


def one_user(scores: list[float], history: PrivateHistories, target: int, **how) -> Evaluation:
    part = Split(train=history, history=history, target=np.array([target]))
    return evaluate(lambda users: np.array([scores], np.float32), part, len(scores), **how)


def test_the_rank_counts_better_candidates(make_histories):
    scores = np.array([[0.9, 0.1, 0.8, 0.7]], np.float32)
    assert ranks(scores, make_histories([[]]), np.array([3])).tolist() == [3.0]


def test_items_of_the_history_are_no_candidates(make_histories):
    scores = np.array([[0.9, 0.1, 0.8, 0.7]], np.float32)
    assert ranks(scores, make_histories([[0, 2]]), np.array([3])).tolist() == [1.0]


def test_the_target_is_a_candidate_even_if_the_history_has_it(make_histories):
    scores = np.array([[0.9, 0.1, 0.8, 0.7]], np.float32)
    assert ranks(scores, make_histories([[0, 3]]), np.array([3])).tolist() == [2.0]


def test_ties_share_their_mean_rank(make_histories):
    scores = np.array([[5, 1, 1, 1, 0]], np.float32)
    assert ranks(scores, make_histories([[]]), np.array([2])).tolist() == [3.0]
    assert ranks(scores, make_histories([[1]]), np.array([2])).tolist() == [2.5]


def test_ranking_leaves_the_scores_as_they_were(make_histories):
    scores = np.array([[0.9, 0.1, 0.8]], np.float32)
    ranks(scores, make_histories([[0]]), np.array([2]))
    assert scores.tolist() == np.array([[0.9, 0.1, 0.8]], np.float32).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_and_names_the_user(make_histories, bad):
    history = make_histories([[0], [1], [2]])
    part = Split(train=history, history=history, target=np.array([1, -1, 3]))
    scores = np.zeros((3, ITEMS), np.float32)
    scores[2, 5] = bad
    with pytest.raises(ModelError, match=r"user 'user-2' for item 5"):
        evaluate(lambda users: scores[users], part, ITEMS)


def test_scores_of_another_shape_are_refused(make_histories):
    history = make_histories([[0]])
    part = Split(train=history, history=history, target=np.array([1]))
    with pytest.raises(ModelError, match=r"found shape \(1, 5\); expected \(1, 6\)"):
        evaluate(lambda users: np.zeros((1, 5), np.float32), part, ITEMS)


def test_a_split_without_targets_is_refused(make_histories):
    history = make_histories([[0], [1]])
    part = Split(train=history, history=history, target=np.array([-1, -1]))
    with pytest.raises(DataError, match="none of the 2 users"):
        evaluate(lambda users: np.zeros((2, ITEMS), np.float32), part, ITEMS)


def test_only_users_with_a_target_are_scored(make_histories):
    history = make_histories([[0], [1], [2]])
    part = Split(train=history, history=history, target=np.array([3, -1, 4]))
    asked = []

    def score(users):
        asked.extend(users.tolist())
        return np.zeros((len(users), ITEMS), np.float32)

    assert evaluate(score, part, ITEMS).users.tolist() == asked == [0, 2]


# By hand: ranks 1, 3 and 11 at cut-off 10.
def test_metrics_equal_the_hand_computed_ones():
    found = of_ranks([1, 3, 11])
    assert found.hr == found.recall == pytest.approx(2 / 3)
    assert found.ndcg == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.mrr == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)
    assert found.precision == pytest.approx(2 / 30)
    assert found.f1 == pytest.approx((2 / 11 + 2 / 11 + 0) / 3)
    assert found.accuracy == pytest.approx(1 / 3)


def test_the_last_rank_within_the_cutoff_is_a_hit_and_the_next_half_is_not():
    assert of_ranks([10.0]).hr == 1
    assert of_ranks([10.5]).hr == 0


def test_a_tied_rank_is_discounted_as_it_is():
    assert of_ranks([1.5]).ndcg == pytest.approx(1 / math.log2(2.5))


def test_sharing_the_top_is_no_accurate_answer():
    assert of_ranks([1.5]).accuracy == 0


def test_the_standard_error_is_the_sample_deviation_over_the_root_of_users():
    # Hits 1, 0, 0, 0: variance 1/4 with n - 1, error sqrt(1/4) / 2.
    assert of_ranks([1, 50, 50, 50]).standard_error("hr") == pytest.approx(1 / 4)


def test_one_user_has_no_standard_error():
    assert math.isnan(of_ranks([1]).standard_error("hr"))


def test_a_constant_score_ranks_everybody_in_the_middle(make_histories):
    found = one_user([0.0] * 11, make_histories([[]]), target=7)
    assert found.ranks.tolist() == [6.0]


def test_the_list_holds_the_best_candidates_first_and_ties_by_place(make_histories):
    found = one_user([1, 3, 2, 2, 9, 2], make_histories([[4]]), target=0, cutoff=3)
    assert found.top.tolist() == [[1, 2, 3]]


def test_the_list_is_padded_where_candidates_run_out(make_histories):
    found = one_user([1, 3, 2, 2], make_histories([[1, 2]]), target=0, cutoff=10)
    assert found.top.tolist() == [[3, 0, -1, -1]]


def test_coverage_is_the_share_of_the_catalogue_in_any_list(make_histories):
    history = make_histories([[0], [1]])
    part = Split(train=history, history=history, target=np.array([2, 2]))
    scores = np.array([[0, 9, 8, 0, 0, 0], [0, 0, 9, 8, 0, 0]], np.float32)
    found = evaluate(lambda users: scores[users], part, ITEMS, cutoff=2)
    assert found.coverage == pytest.approx(3 / 6)


def test_novelty_is_the_mean_information_of_what_is_recommended(make_histories):
    found = one_user([9, 8, 0, 0], make_histories([[]]), target=0, cutoff=2)
    # Shares 1/2 and 1/8: 1 and 3 bits.
    assert found.novelty(np.array([4, 1, 3, 0])) == pytest.approx(2.0)


def test_an_item_nobody_had_is_as_new_as_one_had_once(make_histories):
    found = one_user([0, 0, 0, 9], make_histories([[]]), target=0, cutoff=1)
    assert found.novelty(np.array([4, 1, 3, 0])) == pytest.approx(3.0)


@pytest.mark.parametrize("popularity", [np.array([1, 2]), np.zeros(4, np.int64)])
def test_novelty_refuses_counts_that_do_not_fit(make_histories, popularity):
    found = one_user([9, 8, 0, 0], make_histories([[]]), target=0)
    with pytest.raises(DataError, match="novelty"):
        found.novelty(popularity)


def test_a_slice_keeps_the_users_whose_target_is_in_the_mask():
    found = of_ranks([1, 20, 3]).slice(np.array([True, False, True]))
    assert found.users.tolist() == [0, 2]
    assert found.hr == 1


def test_a_slice_without_users_has_no_figures():
    found = of_ranks([1, 20]).slice(np.array([False, False]))
    assert len(found) == 0
    assert math.isnan(found.ndcg)


def test_a_slice_refuses_a_mask_of_another_catalogue():
    with pytest.raises(DataError, match="mask of shape"):
        of_ranks([1, 20]).slice(np.array([True]))


@st.composite
def scored_splits(draw: st.DrawFn) -> tuple[np.ndarray, Split, int]:
    items = draw(st.integers(1, 8))
    users = draw(st.integers(1, 7))
    place = st.integers(0, items - 1)
    # Few distinct values, so that ties are common.
    row = st.lists(st.integers(-2, 2), min_size=items, max_size=items)
    scores = np.array([draw(row) for _ in range(users)], np.float32)
    histories = [draw(st.lists(place, max_size=items + 2)) for _ in range(users)]
    targets = draw(st.lists(place, min_size=users, max_size=users))
    history = PrivateHistories(
        user_ids=tuple(map(str, range(users))),
        offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64),
        items=np.array([item for h in histories for item in h], dtype=np.int64),
        times=np.zeros(sum(len(h) for h in histories)),
    )
    return scores, Split(history, history, np.array(targets)), draw(st.integers(1, 9))


def candidates_by_loop(scores: list[float], history: list[int], target: int) -> list[int]:
    return [item for item in range(len(scores)) if item == target or item not in history]


def rank_by_loop(scores: list[float], history: list[int], target: int) -> float:
    """Mean place of the target over the orders that the scores allow: its best and worst place."""
    others = [i for i in candidates_by_loop(scores, history, target) if i != target]
    best = 1 + sum(scores[item] > scores[target] for item in others)
    worst = 1 + sum(scores[item] >= scores[target] for item in others)
    return (best + worst) / 2


def top_by_loop(scores: list[float], history: list[int], target: int, count: int) -> list[int]:
    candidates = candidates_by_loop(scores, history, target)
    ordered = sorted(candidates, key=lambda item: (-scores[item], item))[:count]
    return ordered + [-1] * (count - len(ordered))


@given(case=scored_splits(), block=st.integers(1, 8))
def test_ranks_and_lists_equal_those_of_plain_loops(case, block):
    scores, part, cutoff = case
    items = scores.shape[1]
    found = evaluate(lambda users: scores[users], part, items, cutoff, block)
    by_user = [
        (scores[user].tolist(), part.history.row(user).tolist(), int(part.target[user]))
        for user in range(len(scores))
    ]
    assert found.ranks.tolist() == [rank_by_loop(*user) for user in by_user]
    assert found.top.tolist() == [top_by_loop(*user, min(cutoff, items)) for user in by_user]


@given(case=scored_splits())
def test_a_hit_without_ties_is_a_target_in_the_list(case):
    scores, part, cutoff = case
    distinct = scores + np.linspace(0, 0.5, scores.shape[1], dtype=np.float32)
    found = evaluate(lambda users: distinct[users], part, scores.shape[1], cutoff)
    listed = (found.top == found.targets[:, None]).any(axis=1)
    assert found.per_user("hr").astype(bool).tolist() == listed.tolist()


def test_no_difference_is_found_between_an_evaluation_and_itself():
    same = of_ranks([1, 4, 30, 2])
    found = paired_bootstrap(same, same)
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_bootstrap_is_a_minus_b():
    found = paired_bootstrap(of_ranks([1] * 20), of_ranks([11] * 20), "hr")
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    assert found.p_value == pytest.approx(2 / 1001)


def test_the_bootstrap_is_the_same_for_the_same_seed():
    a, b = of_ranks([1, 4, 30, 2]), of_ranks([2, 3, 11, 9])
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_the_interval_is_that_of_the_normal_approximation_for_many_users():
    generator = np.random.default_rng(0)
    a = of_ranks(generator.integers(1, 40, 2000).tolist())
    b = of_ranks(generator.integers(1, 40, 2000).tolist())
    found = paired_bootstrap(a, b, samples=20_000)
    differences = a.per_user("ndcg") - b.per_user("ndcg")
    error = differences.std(ddof=1) / math.sqrt(2000)
    assert found.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)


def test_samples_drawn_in_several_chunks_are_all_used(monkeypatch):
    a, b = of_ranks([1, 4, 30, 2]), of_ranks([2, 3, 11, 9])
    whole = paired_bootstrap(a, b)
    monkeypatch.setattr("shared.metrics.BOOTSTRAP_CHUNK", 4 * 7)
    assert paired_bootstrap(a, b) == whole


def test_the_bootstrap_rarely_sees_a_difference_where_there_is_none():
    # 200 true nulls at level 0.05: more than 22 alarms has probability 0.0002 (binomial).
    generator = np.random.default_rng(0)
    alarms = 0
    for seed in range(200):
        a, b = (of_ranks(generator.integers(1, 30, 300).tolist()) for _ in range(2))
        alarms += paired_bootstrap(a, b, samples=400, seed=seed).p_value < 0.05
    assert 0 < alarms <= 22


def test_the_bootstrap_sees_a_small_difference_that_pairing_makes_plain():
    # Ranks of both vary widely over users, and one is always one place better than the other.
    base = np.random.default_rng(0).integers(1, 10, 300)
    better, worse = of_ranks(base.tolist()), of_ranks((base + 1).tolist())
    found = paired_bootstrap(better, worse, "mrr")
    assert found.low > 0
    assert found.p_value < 0.01


@pytest.mark.parametrize(
    "other",
    [
        of_ranks([1, 2, 3]),
        of_ranks([1, 2], cutoff=5),
        of_ranks([3, 4, 5]).slice(np.array([False, True, True])),
    ],
)
def test_the_bootstrap_refuses_evaluations_of_other_users(other):
    with pytest.raises(DataError, match="same users"):
        paired_bootstrap(of_ranks([1, 2]), other)


def test_over_draws_a_users_value_is_the_mean_of_all_draws():
    up, down = of_ranks([1, 11, 1, 11]), of_ranks([11, 1, 11, 1])
    never = of_ranks([11, 11, 11, 11])
    found = bootstrap_over_draws([up, down], [never, never], "hr")
    # Each user hits in one draw of two: users do not differ, so there is nothing to resample.
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match="same users"):
        bootstrap_over_draws([up, of_ranks([1, 1])], [never, never], "hr")

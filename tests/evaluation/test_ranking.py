"""Ranking in blocks: equal to ranking whole matrices of scores, whatever the blocks and ties."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared.ranking as ranking
from shared.errors import DataError, ModelError
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, evaluate
from shared.ranking import evaluate_targets
from shared.scoring import Ints, ItemSide, Scores, Targets
from shared.splits import Split, leave_one_out

KINDS = ("usual", "copies", "near copies", "low copies", "no direction", "large")

Find = Callable[[Ints], Targets]


class Case:
    """A made-up catalogue, and what users look for in it."""

    def __init__(
        self,
        seed: int,
        users: int = 40,
        items: int = 300,
        kind: str = "usual",
        covered: int = 20,
        dim: int = 16,
    ) -> None:
        draw = np.random.default_rng(seed)
        vectors = draw.normal(size=(items, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        popular = np.log(draw.integers(1, 4, size=items) + 0.3)
        if kind == "copies":
            # Texts that stand in the catalogue many times.
            vectors = vectors[draw.integers(0, 3, size=items)]
            popular[:] = 0.5
        if kind == "low copies":
            # Only few items are among the best, and all others score alike.
            vectors[20:] = vectors[20]
            popular[20:] = -9.0
        if kind == "near copies":
            vectors = vectors[draw.integers(0, 3, size=items)]
            vectors += draw.normal(scale=1e-8, size=vectors.shape).astype(np.float32)
            popular[:] = 0.5
        self.side = ItemSide(vectors, popular, draw.permutation(items)[:covered])
        directions = 3.0 * draw.normal(size=(users, dim)).astype(np.float32)
        if kind == "no direction":
            directions[:] = 0.0
        if kind == "large":
            directions *= np.float32(1e6)
        self.whole = Targets(
            draw.choice([0.0, 1.0, 1.0], size=users),
            draw.normal(size=(users, covered)),
            {"one": directions, "other": directions[::-1].copy()},
            {"one": draw.normal(size=users)},
        )
        lengths = draw.integers(0, 12, size=users)
        self.histories = PrivateHistories(
            tuple(f"user-{place}" for place in range(users)),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            draw.integers(0, items, size=int(lengths.sum())),
            np.zeros(int(lengths.sum())),
        )
        self.part = leave_one_out(self.histories, "test")

    def find(self, users: Ints) -> Targets:
        return self.whole.select(users)

    def scores(self, users: Ints) -> Scores:
        """Of the whole catalogue, in float64 until they are done."""
        found, side = self.find(users), self.side
        scores = found.prior[:, None] * side.log_popularity + found.offset[:, None]
        scores[:, side.top] += found.reach
        scores += found.direction.astype(np.float64) @ side.vectors.T.astype(np.float64)
        return scores.astype(np.float32)

    def whole_matrix(self, cutoff: int) -> Evaluation:
        return evaluate(self.scores, self.part, len(self.side), cutoff)

    def in_blocks(self, cutoff: int) -> Evaluation:
        return evaluate_targets(self.find, self.side, self.part, cutoff)


def check_equal(found: Evaluation, expected: Evaluation) -> None:
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    np.testing.assert_array_equal(found.top, expected.top)
    np.testing.assert_array_equal(found.users, expected.users)
    np.testing.assert_array_equal(found.targets, expected.targets)
    assert (found.items, found.cutoff) == (expected.items, expected.cutoff)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.sampled_from([1, 7, 50]), st.sampled_from([13, 64, 400])),
    cutoff=st.sampled_from([1, 10, 10**6]),
)
def test_blocks_give_the_ranks_and_lists_of_the_whole_matrix(
    seed: int, kind: str, sizes: tuple[int, int], cutoff: int
) -> None:
    case = Case(seed, kind=kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "USERS_PER_BLOCK", sizes[0])
        patch.setattr(ranking, "ITEMS_PER_BLOCK", sizes[1])
        found = case.in_blocks(cutoff)
    check_equal(found, case.whole_matrix(cutoff))


@pytest.mark.parametrize("kind", ["copies", "near copies", "low copies"])
def test_users_with_too_many_items_near_the_target_are_ranked_as_well(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MOST_NEAR", 20)
    monkeypatch.setattr(ranking, "ITEMS_PER_BLOCK", 64)
    exactly = ranking._Ranker._exactly
    asked: list[int] = []

    def counted(self: Any, block: Any) -> Any:
        asked.append(len(block))
        return exactly(self, block)

    monkeypatch.setattr(ranking._Ranker, "_exactly", counted)
    case = Case(3, kind=kind)
    check_equal(case.in_blocks(10), case.whole_matrix(10))
    assert sum(asked) > 0


def test_rough_scores_decide_of_nearly_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the figures would be right, and the way to them slow."""
    monkeypatch.setattr(ranking._Ranker, "_exactly", None)
    case = Case(4, users=300, items=5000, dim=64)
    check_equal(case.in_blocks(10), case.whole_matrix(10))


def test_a_catalogue_that_g_does_not_cover_is_ranked() -> None:
    case = Case(5, covered=0)
    check_equal(case.in_blocks(10), case.whole_matrix(10))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_a_direction_that_is_not_finite_is_refused_and_names_the_user(bad: float) -> None:
    case = Case(6)
    user = int(np.flatnonzero(case.part.target >= 0)[3])
    case.whole.directions["one"][user, 2] = bad
    with pytest.raises(ModelError, match=f"user 'user-{user}'"):
        case.in_blocks(10)


def test_a_split_without_targets_is_refused() -> None:
    case = Case(7)
    nobody = Split(case.part.train, case.part.history, np.full(len(case.part.target), -1))
    with pytest.raises(DataError, match="none of the 40 users has a target"):
        evaluate_targets(case.find, case.side, nobody)


def test_memory_does_not_grow_with_users_and_items() -> None:
    def peak(users: int, items: int) -> int:
        case = Case(8, users=users, items=items, dim=8)
        tracemalloc.start()
        case.in_blocks(10)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # A score of each would be 320 MB.
    small, large = peak(512, 4096), peak(4000, 20_000)
    assert large < small + 4_000_000

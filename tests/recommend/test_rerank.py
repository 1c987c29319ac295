"""Maximal marginal relevance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.rerank import diversified

# Two of one kind, two of another.
VECTORS = np.array([[1, 0], [0.99, 0.141], [0, 1], [0.141, 0.99]], dtype=np.float32)
PLACES = np.arange(4)
SCORES = np.array([4.0, 3.9, 3.0, 2.9], dtype=np.float32)


def test_without_diversity_the_order_stays() -> None:
    assert diversified(PLACES, SCORES, VECTORS, 3, 0.0).tolist() == [0, 1, 2]


def test_the_formula_by_hand() -> None:
    # After the first: relevance 1.0, 0.909, 0.091, 0; likeness to it 0.99, 0, 0.141.
    half = [0.5 * 0.909 - 0.5 * 0.99, 0.5 * 0.091, 0.0 - 0.5 * 0.141]
    assert int(np.argmax(half)) == 1
    assert diversified(PLACES, SCORES, VECTORS, 2, 0.5).tolist() == [0, 2]
    # At 0.1 relevance wins: 0.9 * 0.909 - 0.1 * 0.99 = 0.72 against 0.9 * 0.091 = 0.08.
    assert diversified(PLACES, SCORES, VECTORS, 2, 0.1).tolist() == [0, 1]


@given(
    count=st.integers(0, 12),
    k=st.integers(1, 15),
    diversity=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_list_has_no_item_twice_and_begins_with_the_best(
    count: int, k: int, diversity: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((20, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = random.permutation(20)[:count]
    scores = -np.sort(-random.standard_normal(count)).astype(np.float32)
    chosen = diversified(places, scores, vectors, k, diversity).tolist()
    assert len(chosen) == min(k, count) == len(set(chosen))
    assert not chosen or chosen[0] == 0


def test_equal_scores_leave_it_to_likeness() -> None:
    chosen = diversified(PLACES, np.ones(4, dtype=np.float32), VECTORS, 2, 0.5)
    assert chosen.tolist() == [0, 2]


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_nothing_gives_nothing(diversity: float) -> None:
    empty = np.empty(0, dtype=np.int64)
    assert len(diversified(empty, empty.astype(np.float32), VECTORS, 3, diversity)) == 0

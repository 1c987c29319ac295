"""Texts are centred, and half-whitened where the base crowds all of them together."""

import numpy as np
import pytest

from shared.encoder import centred, unit_rows
from shared.text_space import TextSpace

DIM, ITEMS = 24, 400


@pytest.fixture
def crowded() -> np.ndarray:
    """Vectors that share nearly all of their length and differ mostly in two directions."""
    random = np.random.default_rng(0)
    scale = np.where(np.arange(DIM) < 2, 0.2, 0.02)
    rows = random.standard_normal((ITEMS, DIM)) * scale
    rows[:, -1] = 1.0
    return unit_rows(rows.astype(np.float32))


def share_of_greatest(vectors: np.ndarray) -> float:
    values = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64)))
    return float(values[-1] / values.sum())


def test_a_catalogue_with_room_is_centred_and_no_more() -> None:
    vectors = unit_rows(np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32) + 1)
    space = TextSpace.of(vectors)
    assert np.linalg.norm(space.mean) == pytest.approx(0.75, abs=0.1)
    assert space.whitening is None
    np.testing.assert_array_equal(space.place(vectors), centred(vectors))


def test_crowded_vectors_differ_in_all_directions(crowded: np.ndarray) -> None:
    space = TextSpace.of(crowded)
    placed = space.place(crowded)
    assert placed.dtype == np.float32
    assert np.linalg.norm(placed, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert share_of_greatest(centred(crowded)) > 0.4
    assert share_of_greatest(placed) < 0.25
    # Half of the way: the greatest direction is still the greatest.
    assert share_of_greatest(placed) > 1.5 / DIM


def test_the_order_of_the_items_says_nothing(crowded: np.ndarray) -> None:
    order = np.random.default_rng(2).permutation(ITEMS)
    there, here = TextSpace.of(crowded[order]), TextSpace.of(crowded)
    assert there.place(crowded) == pytest.approx(here.place(crowded), abs=1e-3)


def test_a_need_counts_by_what_the_catalogue_has(crowded: np.ndarray) -> None:
    """Fewer items than dimensions: what no item has must not drown the rest of a need."""
    few = crowded[:10]
    space = TextSpace.of(few)
    outside = np.linalg.svd(few - few.mean(axis=0))[2][-1]
    need = (few[3] + 0.5 * outside).astype(np.float32)[None]
    assert space.place(need) == pytest.approx(space.place(few[3:4]), abs=1e-2)


def test_equal_texts_are_left_alone() -> None:
    same = np.tile(unit_rows(np.ones((1, 8), np.float32)), (5, 1))
    placed = TextSpace.of(same).place(same)
    assert np.isfinite(placed).all()

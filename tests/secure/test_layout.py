"""Where coordinates lie in the sum of all, and that everybody adds noise to every one of them."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.sums import Layout
from shared.catalogue import Catalogue
from shared.errors import FederationError
from shared.plan import Mechanism, Noise
from shared.randomness import from_seed
from shared.statistics import cooccurrence_sum, popularity_sum
from tests.agent.house import histories
from tests.secure.house import catalogue
from tests.secure.houses import open_houses
from tests.secure.parts import secure_plan

KEYS = st.lists(st.integers(0, 30), unique=True, max_size=12)


def keys(values: list[int]) -> np.ndarray:
    # Near both ends of what a key can be.
    return np.array([v if v % 2 else 2**64 - 1 - v for v in values], dtype=np.uint64)


@given(KEYS, KEYS)
def test_items_lie_where_their_keys_were_asked_for(own: list[int], asked: list[int]) -> None:
    found = Layout.of_items(keys(own), keys(asked))
    assert found.size == len(asked)
    assert found.places.tolist() == [asked.index(v) if v in asked else -1 for v in own]


@given(KEYS, KEYS)
def test_own_values_and_noise_go_where_they_belong(own: list[int], asked: list[int]) -> None:
    layout = Layout.of_items(keys(own), keys(asked))
    values = {v: float(n + 1) for n, v in enumerate(own)}
    wide = layout.widened(np.array([values[v] for v in own]), 100, 1.0)
    foreign = [v for v in asked if v not in own]
    assert wide.tolist() == [values[v] for v in own] + [0.0] * len(foreign)
    # Noise is told apart by its place: 1000 and up.
    noise = 1000.0 * np.arange(1, len(wide) + 1)
    spread = layout.spread(wide + noise)
    assert len(spread) == len(asked)
    plain = np.array([values.get(v, 0.0) for v in asked])
    added = spread - plain
    assert (added > 0.0).all()
    assert len(set(added.tolist())) == len(asked)
    assert set(added.tolist()) <= set(noise.tolist())


@given(st.integers(0, 9), st.data())
def test_pairs_lie_where_the_upper_triangle_of_all_has_them(items: int, data: Any) -> None:
    own = sorted(data.draw(st.sets(st.integers(0, items - 1)) if items else st.just(set())))
    layout = Layout.of_pairs(own, items)
    pairs = [(a, b) for a in range(items) for b in range(a + 1, items)]
    wanted = [pairs.index((a, b)) for n, a in enumerate(own) for b in own[n + 1 :]]
    assert layout.size == len(pairs)
    assert layout.places.tolist() == wanted


def test_the_same_coordinates_stay_where_they_are() -> None:
    layout = Layout.same(3)
    assert layout.spread(layout.widened(np.array([1.0, 2.0, 3.0]), 9, 1.0)).tolist() == [1, 2, 3]


def test_own_sums_are_bounded_by_four_times_the_declared_users() -> None:
    wide = Layout.same(4).widened(np.array([1e9, -1e9, np.nan, 5.0]), 10, 0.5)
    assert wide.tolist() == [20.0, -20.0, 0.0, 5.0]


@pytest.mark.parametrize(
    "asked",
    [
        None,
        np.array([1, 2]),
        np.array([1.0]),
        np.array([[1]], dtype=np.uint64),
        np.zeros(2**24 + 1, dtype=np.uint64),
    ],
    ids=["missing", "signed", "floats", "a table", "too many"],
)
def test_what_are_no_keys_is_refused(asked: Any) -> None:
    with pytest.raises(FederationError, match="expected an array keys of uint64"):
        Layout.of_items(keys([1, 2]), asked)


def test_an_item_that_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(FederationError, match="some keys are asked for twice"):
        Layout.of_items(keys([1]), keys([3, 1, 3]))


def noise_of(layout: Layout, own: int, mechanism: Mechanism) -> np.ndarray:
    wide = layout.widened(np.zeros(own), 100, mechanism.sensitivity)
    return layout.spread(mechanism.noised(wide, from_seed(7, layout.size)))


def test_foreign_coordinates_have_as_much_noise_as_own_ones() -> None:
    mechanism = Mechanism("popularity", 1.0, 2.0, 1.0, 0.5, "discrete", 23)
    layout = Layout.of_items(np.arange(4000, dtype=np.uint64), np.arange(2000, 6000).astype("u8"))
    noise = noise_of(layout, 4000, mechanism)
    for part in (noise[:2000], noise[2000:]):
        assert deviation_is(part, 1.0)
    assert not deviation_is(noise, 1.2)


def deviation_is(values: np.ndarray, deviation: float) -> bool:
    """Whether values are centred Gaussian of a deviation; wrong once in a million times."""
    statistic = float(((values / deviation) ** 2).sum())
    law = stats.chi2(values.size)
    return bool(min(law.cdf(statistic), law.sf(statistic)) > 0.5e-6)


NAMES = (
    [f"film {n}" for n in range(1200)],
    [f"film {n}" for n in range(600, 1800)],
    [f"book {n}" for n in range(700)],
)
ROWS = (
    ([0, 1, 2], [750, 799], [1]),
    ([0, 1], [99], [799, 2, 3, 4]),
    ([0], [249, 1], [5]),
)
UNION = 2500


def places_in(found: np.ndarray, names: list[str]) -> list[int]:
    wanted = catalogue(names).key_hashes
    return [found.tolist().index(key) for key in wanted.tolist()]


def plain_sum(found: np.ndarray) -> np.ndarray:
    total = np.zeros(len(found))
    for names, rows in zip(NAMES, ROWS, strict=True):
        total[places_in(found, names)] += popularity_sum(histories(rows), len(names))
    return total


def test_catalogues_are_joined_and_the_sum_is_the_plain_one_without_noise(folder: Path) -> None:
    quiet = Mechanism("popularity", 1.0, 0.0, 1.0, 1.0, "discrete", 23)
    plan = secure_plan(3, 1, popularity=quiet, step=None, steps=0, noise=Noise.NONE, epsilon=None)
    with open_houses(folder, plan, NAMES, ROWS, epsilon=None, privacy={"noise": "none"}) as houses:
        total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert total.keys.tolist() == sorted(
        {key for names in NAMES for key in catalogue(names).key_hashes.tolist()}
    )
    assert len(total.keys) == UNION
    # Each of three rounds each coordinate to its grid.
    assert np.abs(total.values - plain_sum(total.keys)).max() <= 1.5 * 2.0**-23
    assert np.count_nonzero(total.values) == np.count_nonzero(plain_sum(total.keys)) > 10


def test_every_item_has_the_noise_of_all_whoever_has_it(folder: Path) -> None:
    plan = secure_plan(3, 1, step=None, steps=0)
    with open_houses(folder, plan, NAMES, ROWS) as houses:
        total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    # Each of three adds 2 / sqrt(2): two of them make the whole of it.
    assert total.deviation == pytest.approx(3.0**0.5 * 2.0**0.5)
    noise = total.values - plain_sum(total.keys)
    films, books = places_in(total.keys, NAMES[0]), places_in(total.keys, NAMES[2])
    # Those of the first house alone, of two houses, of the last one alone.
    for part in (films[:600], films[600:], books):
        assert deviation_is(noise[part], 6.0**0.5)
        assert not deviation_is(noise[part], 4.0**0.5)


def test_houses_without_an_item_in_common_add_up_all_the_same(folder: Path) -> None:
    plan = secure_plan(3, 1, step=None, steps=0)
    names = [[f"{kind} {n}" for n in range(5)] for kind in ("film", "book", "song")]
    with open_houses(folder, plan, names, 3 * (([0, 1], [4]),)) as houses:
        total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert len(total.keys) == 15
    assert len(total.names) == 3


def sum_of_pairs(folder: Path, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over items of all three: the sum, the plain one, and whether some house has both items."""
    share = 2.0**-0.5 if sigma else 1.0
    p = Mechanism("popularity", 1.0, sigma, 1.0, share, "discrete", 23)
    g = Mechanism("cooccurrence", 1.0, sigma, 1.0, share, "discrete", 23)
    noise, epsilon = (Noise.SHARED, 8.0) if sigma else (Noise.NONE, None)
    plan = secure_plan(
        3, 1, popularity=p, cooccurrence=g, step=None, steps=0, noise=noise, epsilon=epsilon
    )
    chosen = [catalogue(names).key_hashes[:30] for names in NAMES]
    asked = np.unique(np.concatenate(chosen))
    size = 90 * 89 // 2
    with open_houses(
        folder, plan, NAMES, ROWS, epsilon=epsilon, privacy={"noise": noise.value}
    ) as houses:
        sums, options = houses.strategy.sums, houses.strategy.config.statistics
        sums.total(houses.grid, "popularity", {}, 0)
        total = sums.total(houses.grid, "cooccurrence", {"keys": asked}, 0, size)
    pairs = {pair: n for n, pair in enumerate(itertools.combinations(asked.tolist(), 2))}
    plain, own = np.zeros(size), np.zeros(size, dtype=bool)
    for names, rows in zip(NAMES, ROWS, strict=True):
        keys_of = catalogue(names).key_hashes.tolist()
        held = [key for key in asked.tolist() if key in keys_of]
        top = np.array([keys_of.index(key) for key in held])
        cells = [pairs[pair] for pair in itertools.combinations(held, 2)]
        plain[cells] += cooccurrence_sum(histories(rows), top, options)
        own[cells] = True
    return total.values, plain, own


def test_pairs_are_joined_and_the_sum_is_the_plain_one_without_noise(folder: Path) -> None:
    found, plain, _ = sum_of_pairs(folder, 0.0)
    assert np.abs(found - plain).max() <= 1.5 * 2.0**-23
    assert np.count_nonzero(found) == np.count_nonzero(plain) >= 5


def test_pairs_have_the_noise_of_all_whoever_has_them(folder: Path) -> None:
    found, plain, own = sum_of_pairs(folder, 2.0)
    noise = found - plain
    # Films with films and books with books; a film and a book, which nobody has both.
    for part in (noise[own], noise[~own]):
        assert part.size > 1000
        assert deviation_is(part, 6.0**0.5)
        assert not deviation_is(part, 4.0**0.5)


def test_the_items_of_the_sum_are_matched_by_key_not_by_place() -> None:
    own = Catalogue(("b", "a"), ("b", "a"), {})
    both = Catalogue(("a", "c", "b"), ("a", "c", "b"), {})
    layout = Layout.of_items(own.key_hashes, both.key_hashes)
    assert layout.places.tolist() == [2, 0]

"""The sampler of discrete Gaussians: exact chances, each number independent of all others.

Statistical tests fail by chance once in a million times for each check, whatever the seed: seeds
only make a failure repeatable.
"""

import math
import tracemalloc

import mpmath
import numpy as np
import numpy.typing as npt
import opendp.prelude as dp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared import discrete_gaussian as module
from shared.discrete_gaussian import discrete_gaussian
from shared.errors import PrivacyError
from shared.randomness import from_operating_system, from_seed

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FALSE_ALARM = 1e-6
SMALL = (0.5, 0.83, 1.0, 3.7, 7.999, 8.0, 13.3, 61.7)
LARGE = (2.0**12, 4096.7, 2.0**22.3, 3e11, 2.0**45, 2.0**46)
MANY = 1_000_000

dp.enable_features("contrib")


def chances(deviation: float) -> tuple[Ints, Floats]:
    """The places within 12 deviations, and the discrete Gaussian's chance of each."""
    reach = math.ceil(12 * deviation)
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / deviation) ** 2)
    return places, weights / weights.sum()


def fits_places(drawn: Ints, deviation: float) -> bool:
    """Chi-square over single places, and one cell for those with fewer than ten expected."""
    places, expected = chances(deviation)
    expected = expected * len(drawn)
    common = expected >= 10.0
    observed = np.array([(drawn == place).sum() for place in places[common]])
    cells = np.append(observed, len(drawn) - observed.sum())
    wanted = np.append(expected[common], len(drawn) - expected[common].sum())
    return bool(stats.chisquare(cells, wanted).pvalue > FALSE_ALARM)


def fits_cells(drawn: Ints, deviation: float, cells: int = 997) -> bool:
    """Chi-square over cells of nearly equal chance, for deviations of 2**12 and more.

    There the discrete Gaussian's chance of at most k is the normal's of k + 1/2 to 1e-8.
    """
    quantiles = stats.norm.ppf(np.arange(1, cells) / cells)
    edges = np.ceil(quantiles * deviation).astype(np.int64)
    below = stats.norm.cdf((edges - 0.5) / deviation)
    observed = np.bincount(np.searchsorted(edges, drawn, side="right"), minlength=cells)
    expected = np.diff(below, prepend=0.0, append=1.0) * len(drawn)
    return bool(stats.chisquare(observed, expected).pvalue > FALSE_ALARM)


def uncorrelated(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> bool:
    return bool(stats.pearsonr(first, second).pvalue > FALSE_ALARM)


@pytest.mark.parametrize("deviation", SMALL)
def test_every_place_has_its_chance(deviation: float) -> None:
    assert fits_places(discrete_gaussian(MANY, deviation, from_seed(1)), deviation)


def test_the_chi_square_of_places_sees_two_percent() -> None:
    """The power of the test above."""
    assert not fits_places(discrete_gaussian(MANY, 3.7, from_seed(1)), 3.7 * 1.02)


@pytest.mark.parametrize("deviation", LARGE)
def test_cells_of_equal_chance_are_hit_alike(deviation: float) -> None:
    assert fits_cells(discrete_gaussian(MANY, deviation, from_seed(2)), deviation)


def test_the_chi_square_of_cells_sees_one_percent() -> None:
    assert not fits_cells(discrete_gaussian(MANY, 4096.7, from_seed(2)), 4096.7 * 1.01)


@pytest.mark.parametrize("deviation", [2.0**12, 6143.5, 2.0**45])
def test_within_a_block_the_chance_falls_as_planned(deviation: float) -> None:
    """Places of a block in 16 parts: without the second step they would be equal."""
    drawn = np.abs(discrete_gaussian(2 * MANY, deviation, from_seed(3)))
    width = 2 ** (math.frexp(deviation)[1] - 4)
    edges = np.arange(20 * 16 + 1) * (width // 16)
    below = 2.0 * stats.norm.cdf((edges - 0.5) / deviation) - 1.0
    below[0] = 0.0
    observed = np.histogram(drawn, edges)[0]
    expected = np.diff(below) * len(drawn)
    common = expected >= 10.0
    cells = np.append(observed[common], len(drawn) - observed[common].sum())
    wanted = np.append(expected[common], len(drawn) - expected[common].sum())
    assert stats.chisquare(cells, wanted).pvalue > FALSE_ALARM


@pytest.mark.parametrize("deviation", LARGE)
def test_moments_are_those_of_a_gaussian(deviation: float) -> None:
    """Each mean over MANY draws lies within five of its own deviations."""
    values = discrete_gaussian(MANY, deviation, from_seed(4)) / deviation
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((values**power).mean() - moment) < 5.0 * math.sqrt(spread / MANY)


@pytest.mark.parametrize("far", [3.0, 4.0, 4.5])
def test_tails_are_as_heavy_as_a_gaussians_on_both_sides(far: float) -> None:
    drawn = discrete_gaussian(4 * MANY, 5000.0, from_seed(5))
    chance = float(stats.norm.sf((math.ceil(far * 5000.0) - 0.5) / 5000.0))
    for side in (drawn, -drawn):
        beyond = int((side >= far * 5000.0).sum())
        assert stats.binomtest(beyond, len(drawn), chance).pvalue > FALSE_ALARM


@pytest.mark.parametrize("deviation", [0.5, 1.0, 20.0, 2.0**12, 2.0**45])
def test_signs_are_even_and_say_nothing_of_the_size(deviation: float) -> None:
    drawn = discrete_gaussian(MANY, deviation, from_seed(6))
    drawn = drawn[drawn != 0]
    assert stats.binomtest(int((drawn > 0).sum()), len(drawn)).pvalue > FALSE_ALARM
    assert uncorrelated(np.sign(drawn), np.abs(drawn))


@pytest.mark.parametrize("deviation", [2.0**12, 2.0**22.3, 2.0**45])
def test_low_bits_are_uniform_and_say_nothing_of_high_ones(deviation: float) -> None:
    drawn = discrete_gaussian(MANY, deviation, from_seed(7))
    low = drawn & 15
    assert stats.chisquare(np.bincount(low)).pvalue > FALSE_ALARM
    high = np.floor(stats.norm.cdf(drawn / deviation) * 20.0).astype(np.int64)
    table = np.bincount(high * 16 + low, minlength=320).reshape(20, 16)
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_numbers_are_uncorrelated_with_those_that_follow() -> None:
    drawn = discrete_gaussian(MANY, 2.0**22.3, from_seed(8)).astype(np.float64)
    for lag in (1, 2, 3, 4, 16, 1000, module.BLOCK):
        assert uncorrelated(drawn[:-lag], drawn[lag:])
        assert uncorrelated(drawn[:-lag] ** 2, drawn[lag:] ** 2)


def test_calls_are_uncorrelated() -> None:
    random = from_seed(9)
    first, second = (discrete_gaussian(MANY, 2.0**22.3, random).astype(float) for _ in range(2))
    assert uncorrelated(first, second)
    assert uncorrelated(np.abs(first), np.abs(second))


def test_the_slow_path_of_places_has_the_same_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this margin nothing is sure, so that exact numbers decide on every proposal."""
    monkeypatch.setattr(module, "MARGIN", 2.0)
    drawn = discrete_gaussian(20_000, 50.5, from_seed(10))
    assert fits_places(drawn, 50.5)
    drawn = discrete_gaussian(10_000, 2.0**45, from_seed(10))
    assert fits_cells(drawn, 2.0**45, cells=50)


def test_the_slow_path_draws_the_same_as_the_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same 64 bits decide alike; without the further bits both would be one stream."""
    monkeypatch.setattr(module, "_extended", lambda word, random: int(word) << 192)
    fast = discrete_gaussian(5_000, 2.0**23.5, from_seed(11))
    monkeypatch.setattr(module, "MARGIN", 2.0)
    np.testing.assert_array_equal(discrete_gaussian(5_000, 2.0**23.5, from_seed(11)), fast)


def test_bits_equal_to_a_cuts_are_decided_by_the_further_ones() -> None:
    """A cut's first 64 bits: its block comes out as often as its other 192 say."""
    table, random, count = module._table(5000.3), from_seed(12), 2000
    for place in (0, 3, 17, 40):
        cut = table.cuts[place]
        block = module._blocks(np.full(count, cut >> 192, dtype=np.uint64), table, random)
        assert set(block.tolist()) <= {place, place + 1}
        chance = float(mpmath.mpf(cut % 2**192) / 2**192)
        hits = int((block == place).sum())
        assert stats.binomtest(hits, count, chance).pvalue > FALSE_ALARM


def test_bits_beside_a_cuts_need_no_further_ones() -> None:
    table, random = module._table(5000.3), from_seed(13)
    before = random.generator.bit_generator.state
    for place in (0, 3, 17, 40):
        head = table.cuts[place] >> 192
        words = np.array([head - 1, head + 1], dtype=np.uint64)
        assert module._blocks(words, table, random).tolist() == [place, place + 1]
    np.testing.assert_equal(random.generator.bit_generator.state, before)


def test_bits_equal_to_a_chances_are_decided_by_the_further_ones() -> None:
    """Where a place's chance and the uniform agree in 64 bits, the chance's next bits count."""
    deviation, base, place, count = 5000.3, 1024, 300, 2000
    table, random = module._table(deviation), from_seed(14)
    with mpmath.workdps(90):
        chance = mpmath.exp(
            -mpmath.mpf(place * (place + 2 * base)) / (2 * mpmath.mpf(deviation) ** 2)
        )
        scaled = chance * 2**64
        head, rest = int(scaled), float(scaled - int(scaled))
    kept = module._kept(
        np.full(count, base),
        np.full(count, place),
        np.full(count, head, dtype=np.uint64),
        table,
        random,
    )
    assert stats.binomtest(int(kept.sum()), count, rest).pvalue > FALSE_ALARM


@pytest.mark.parametrize("deviation", [0.5, 3.7, 4096.7, 2.0**22.3, 2.0**46])
def test_the_tables_cuts_are_the_chances_to_250_bits(deviation: float) -> None:
    table = module._table(deviation)
    with mpmath.workdps(100):
        ratio = mpmath.mpf(2**table.width_bits) / mpmath.mpf(deviation)
        weights = [mpmath.exp(-((x * ratio) ** 2) / 2) for x in range(len(table.cuts) + 60)]
        total = mpmath.fsum(weights)
        for place, cut in enumerate(table.cuts):
            wanted = mpmath.fsum(weights[: place + 1]) / total
            assert abs(mpmath.mpf(cut) / mpmath.mpf(2) ** 256 - wanted) < mpmath.mpf(2) ** -250
        assert mpmath.fsum(weights[len(table.cuts) + 1 :]) < mpmath.mpf(2) ** -256
    assert deviation < 8.0 or 8.0 <= deviation / 2**table.width_bits < 16.0


@given(
    deviation=st.floats(0.5, 2.0**46),
    uniform=st.integers(0, 2**64 - 1),
)
def test_the_lookup_finds_the_block_that_a_search_finds(deviation: float, uniform: int) -> None:
    table = module._table(deviation)
    found = module._blocks(np.array([uniform], dtype=np.uint64), table, from_seed(0))
    least = sum(cut <= uniform << 192 for cut in table.cuts)
    most = sum(cut < uniform + 1 << 192 for cut in table.cuts)
    assert least <= found[0] <= most
    assert least == most or uniform in table.heads


@given(
    deviation=st.floats(8.0, 2.0**46),
    block=st.integers(0, 303),
    part=st.floats(0.0, 1.0, exclude_max=True),
    uniform=st.integers(0, 2**64 - 1),
)
def test_the_fast_decision_errs_by_less_than_a_thousandth_of_its_margin(
    deviation: float, block: int, part: float, uniform: int
) -> None:
    """What float64 compares, against the same with 50 digits."""
    table = module._table(deviation)
    block = min(block, len(table.cuts))
    base, place = block << table.width_bits, int(part * 2**table.width_bits)
    gap = np.exp(float(place) * (place + 2 * base) * -float(table.precision)) - (
        np.uint64(uniform) >> np.uint64(11)
    ) * np.float64(2.0**-53)
    with mpmath.workdps(50):
        exponent = mpmath.mpf(place * (place + 2 * base)) / (2 * mpmath.mpf(deviation) ** 2)
        exact = mpmath.exp(-exponent) - mpmath.mpf(uniform) / 2**64
        assert exponent < 3
        assert abs(exact - mpmath.mpf(float(gap))) < module.MARGIN / 1000


@pytest.mark.parametrize("deviation", [0.6, 2.5, 40.3])
def test_opendp_draws_from_the_same_distribution(deviation: float) -> None:
    count = 30_000
    noise = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T=int), size=count), dp.l2_distance(T=float), deviation
    )
    theirs = np.array(noise([0] * count))
    ours = discrete_gaussian(count, deviation, from_operating_system())
    edges = np.unique(np.quantile(np.concatenate([ours, theirs]), np.linspace(0.0, 1.0, 60)))
    tables = np.array([np.histogram(side, edges)[0] for side in (ours, theirs)])
    assert stats.chi2_contingency(tables[:, tables.sum(axis=0) >= 10]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("size", [0, 1, 7, module.BLOCK - 1, module.BLOCK, 3 * module.BLOCK + 5])
def test_as_many_come_as_were_asked_for(size: int) -> None:
    drawn = discrete_gaussian(size, 2.0**20, from_seed(15))
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int64
    # By chance 0 is drawn once in 2.6 million.
    assert (drawn == 0).sum() < 5


def test_a_seed_repeats_its_numbers() -> None:
    drawn = discrete_gaussian(6, 4096.0, from_seed(7))
    np.testing.assert_array_equal(drawn, discrete_gaussian(6, 4096.0, from_seed(7)))
    assert drawn.tolist() == [-194, -4458, -6142, 3558, 1346, 318]


def test_no_two_generators_of_the_operating_system_draw_alike() -> None:
    """Two share a number by chance in 1e-10 of pairs of these; two numbers never."""
    drawn = [discrete_gaussian(100, 2.0**45, from_operating_system()) for _ in range(20)]
    assert len(np.unique(np.concatenate(drawn))) > 20 * 100 - 2


@pytest.mark.parametrize("deviation", [0.49, 0.0, -1.0, 2.0**46.01, math.inf, math.nan])
def test_a_deviation_that_cannot_be_drawn_is_refused(deviation: float) -> None:
    with pytest.raises(PrivacyError, match=r"between 0\.5 and 7\.03687e\+13; plan another noise"):
        discrete_gaussian(1, deviation, from_seed(0))


def test_memory_stays_within_a_block_beside_the_result() -> None:
    tracemalloc.start()
    drawn = discrete_gaussian(2**21, 2.0**20, from_seed(16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - drawn.nbytes < 12e6

"""Sums as whole numbers modulo a power of two: read back exactly, and never wrapped in practice."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import fixed_point
from shared.errors import PrivacyError
from shared.fixed_point import (
    WORD_BYTES,
    clamped,
    from_words,
    packed,
    to_words,
    unpacked,
    word_bytes,
)
from shared.grid import INFLATION, SECURE_BITS, WIDEST, grid_spacing, noised_on_grid
from shared.randomness import from_seed

Words = npt.NDArray[np.uint64]

sizes = st.sampled_from(WORD_BYTES)


def words(*values: int) -> Words:
    """Whole numbers modulo 2**64."""
    return np.array([value % 2**64 for value in values], dtype=np.uint64)


@pytest.mark.parametrize(
    ("users", "organisations", "deviation", "size"),
    [(10, 3, 0.5, 4), (1000, 8, 0.5, 5), (1000, 50, 20.0, 5), (100_000, 50, 20.0, 6)],
)
def test_the_bytes_of_a_number_grow_with_users_and_noise(
    users: int, organisations: int, deviation: float, size: int
) -> None:
    assert word_bytes(users, organisations, deviation) == size


def test_the_last_federation_that_fits_a_size_is_known() -> None:
    """With 3 organisations and no noise: 4 U 2**24 + 3 < 2**31, 2**39, 2**47 or 2**55."""
    assert [word_bytes(users, 3, 0.0) for users in (31, 32)] == [4, 5]
    assert [word_bytes(users, 3, 0.0) for users in (8191, 8192)] == [5, 6]
    assert [word_bytes(users, 3, 0.0) for users in (2_097_151, 2_097_152)] == [6, 7]
    assert word_bytes(2**29 - 1, 3, 0.0) == 7


def test_a_federation_that_fits_no_size_is_refused() -> None:
    with pytest.raises(
        PrivacyError, match=r"536870912 users .* do not fit 7 bytes a number; split"
    ):
        word_bytes(2**29, 3, 0.0)
    with pytest.raises(PrivacyError, match=r"noise of 1e\+09 sensitivities do not fit"):
        word_bytes(10, 3, 1e9)


@given(
    users=st.integers(1, 10**8),
    organisations=st.integers(3, 100),
    deviation=st.floats(2.0**-11, 100.0),
    sensitivity=st.floats(1e-3, 1e3),
)
def test_the_largest_sum_with_noise_stays_inside_the_modulus(
    users: int, organisations: int, deviation: float, sensitivity: float
) -> None:
    """In rational numbers, whatever the sensitivity: clamped sums, 12 deviations, roundings."""
    size = word_bytes(users, organisations, deviation)
    spacing = Fraction(grid_spacing(sensitivity, SECURE_BITS))
    most = Fraction(fixed_point.REACH) * users * Fraction(sensitivity) / spacing
    drawn = Fraction(deviation) * Fraction(sensitivity) * Fraction(INFLATION[SECURE_BITS]) / spacing
    tail = 12 * Fraction(math.isqrt(organisations * 10**12) + 1, 10**6) * drawn
    assert most + tail + Fraction(organisations, 2) < 2 ** (8 * size - 1)


def test_a_coordinate_wraps_less_than_once_in_a_million_millions() -> None:
    """The sub-Gaussian tail over all coordinates of 5e11 releases."""
    once = 2.0 * math.exp(-(fixed_point.TAIL**2) / 2.0)
    assert once * WIDEST < 2e-24
    assert once * WIDEST * 5e11 < 1e-12


@pytest.mark.parametrize("deviation", [0.5, 0.7, 1.0, 3.3])
def test_the_discrete_gaussian_is_sub_gaussian_with_its_own_parameter(deviation: float) -> None:
    places = np.arange(-120, 121)
    exponents = -0.5 * (places / deviation) ** 2
    for slope in np.linspace(0.1, 6.0, 25) / deviation:
        moment = np.exp(slope * places + exponents).sum() / np.exp(exponents).sum()
        assert moment <= math.exp((slope * deviation) ** 2 / 2.0) * (1.0 + 1e-12)


def test_a_clamped_sum_lies_within_four_sensitivities_a_declared_user() -> None:
    total = np.array([-41.0, -40.0, 0.25, 39.9, 40.1, math.inf, -math.inf, math.nan])
    expected = [-40.0, -40.0, 0.25, 39.9, 40.0, 40.0, -40.0, 0.0]
    assert clamped(total, 5, 2.0).tolist() == expected
    assert math.isnan(total[-1])


@given(
    pair=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1),
    users=st.integers(1, 50),
)
def test_clamping_moves_no_two_sums_further_apart(
    pair: list[tuple[float, float]], users: int
) -> None:
    first, second = np.array(pair).T
    apart = np.abs(clamped(first, users, 1.0) - clamped(second, users, 1.0))
    assert (apart <= np.abs(first - second)).all()


def test_words_are_grid_steps_modulo_two_to_the_64() -> None:
    spacing = 2.0**-23
    noised = np.array([[0.0, 1.0, -1.0], [spacing, -spacing, 2.0**29 - spacing]])
    expected = words(0, 2**23, -(2**23), 1, -1, 2**52 - 1)
    np.testing.assert_array_equal(to_words(noised, 1.0, 23), expected)
    assert expected[4] == 18446744073709551615


def test_what_lies_beside_the_grid_is_rounded_to_it() -> None:
    noised = np.array([0.4, 0.6, -0.6]) * 2.0**-23
    np.testing.assert_array_equal(to_words(noised, 1.0, 23), words(0, 1, -1))


def test_a_words_highest_bit_that_counts_is_its_sign() -> None:
    total = words(2**31 - 1, 2**31, 2**32 - 1, 2**32, -1)
    values = from_words(total, 4, 1.0, 23) * 2.0**23
    assert values.tolist() == [2147483647.0, -2147483648.0, -1.0, 0.0, -1.0]
    values = from_words(total, 5, 1.0, 23) * 2.0**23
    assert values.tolist() == [2147483647.0, 2147483648.0, 4294967295.0, 4294967296.0, -1.0]


def test_the_largest_words_lose_no_step_in_a_float() -> None:
    total = words(2**47 - 1, 2**47 - 2, -(2**47), -(2**47) + 1)
    values = from_words(total, 6, math.sqrt(3.0), 23) * 2.0**23
    assert [int(value) for value in values] == [2**47 - 1, 2**47 - 2, -(2**47), -(2**47) + 1]


def test_packed_numbers_are_the_low_bytes_first() -> None:
    rows = packed(words(0x0102030405060708, -2), 5)
    assert rows.dtype == np.uint8
    assert rows.tolist() == [[8, 7, 6, 5, 4], [254, 255, 255, 255, 255]]
    np.testing.assert_array_equal(unpacked(rows), words(0x0405060708, 2**40 - 2))


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)), size=sizes)
def test_packing_keeps_a_word_modulo_its_size(values: list[int], size: int) -> None:
    rows = packed(words(*values), size)
    assert rows.shape == (len(values), size)
    np.testing.assert_array_equal(unpacked(rows), words(*(v % 2 ** (8 * size) for v in values)))


@given(
    parts=st.lists(
        st.lists(st.integers(-(2**44), 2**44), min_size=5, max_size=5), min_size=1, max_size=7
    ),
    masks=st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5),
    sensitivity=st.floats(1e-3, 1e3),
)
def test_masked_sums_come_back_exactly(
    parts: list[list[int]], masks: list[int], sensitivity: float
) -> None:
    """Masks that cancel modulo the word's size, although packing cut them short."""
    spacing = grid_spacing(sensitivity, SECURE_BITS)
    total = words(*([0] * 5))
    for part in parts:
        word = to_words(np.array(part) * spacing, sensitivity, SECURE_BITS)
        total += unpacked(packed(word + words(*masks), 6))
    total -= words(*masks) * np.uint64(len(parts))
    expected = np.array(parts).sum(axis=0) * spacing
    np.testing.assert_array_equal(from_words(total, 6, sensitivity, SECURE_BITS), expected)


@pytest.mark.parametrize("size", WORD_BYTES)
def test_a_sum_beyond_the_modulus_wraps_around(size: int) -> None:
    half = 2 ** (8 * size - 1)
    total = words(half - 1) + words(3)
    assert from_words(total, size, 1.0, 23)[0] * 2.0**23 == -half + 2


def test_sums_of_organisations_come_back_with_their_noise() -> None:
    """Eight organisations of 125 users in five bytes a number: the exact sum of what they made."""
    random, generator = from_seed(0), np.random.default_rng(0)
    size = word_bytes(1000, 8, 0.7)
    assert size == 5
    exact, total = np.zeros(500), words(*([0] * 500))
    for _ in range(8):
        rows = clamped(generator.normal(0.0, 60.0, size=500), 125, 1.0)
        noised = noised_on_grid(rows, 1.0, 0.7, SECURE_BITS, random)
        exact += noised
        total += unpacked(packed(to_words(noised, 1.0, SECURE_BITS), size))
    np.testing.assert_array_equal(from_words(total, size, 1.0, SECURE_BITS), exact)


def test_memory_stays_within_a_few_copies() -> None:
    noised = np.zeros(2**20)
    tracemalloc.start()
    from_words(unpacked(packed(to_words(noised, 1.0, 23), 5)), 5, 1.0, 23)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * noised.nbytes

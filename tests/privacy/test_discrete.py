"""Discrete Gaussian noise: on its grid, of the planned size, as private as the accountant counts.

Statistical tests fail by chance once in a million runs each.
"""

import math
import multiprocessing
import sys
from collections.abc import Callable
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import opendp.prelude as dp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from shared import grid
from shared.errors import PrivacyError
from shared.grid import grid_spacing, noised_on_grid

DeviationIs = Callable[[npt.NDArray[Any], float], bool]
Floats = npt.NDArray[np.float64]

FALSE_ALARM = 1e-6


def pmf(deviation: float, reach: int) -> Floats:
    """The discrete Gaussian's chances from ``-reach`` to ``reach``, in grid steps."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.asarray(weights / weights.sum())


def peikert(width: float) -> float:
    """The c of the module's argument for random rounding of that width, in grid steps."""
    return 2.0 * sum(math.exp(-2.0 * (math.pi * width * k) ** 2) for k in range(1, 4))


def gaussian_delta(epsilon: float, multiplier: float) -> float:
    """Balle and Wang, ICML 2018, theorem 8."""
    left, right = 0.5 / multiplier, epsilon * multiplier
    return float(stats.norm.cdf(left - right) - math.exp(epsilon) * stats.norm.cdf(-left - right))


def discrete_delta(epsilon: float, deviation: float, shift: int) -> float:
    """Hockey-stick divergence of the discrete Gaussian from itself, ``shift`` steps on."""
    reach = int(40 * deviation)
    chances = pmf(deviation, reach + shift)
    here, there = chances[shift:], chances[: len(chances) - shift]
    return float(np.maximum(here - math.exp(epsilon) * there, 0.0).sum())


def _send_noise(connection: Connection) -> None:
    connection.send(noised_on_grid(np.zeros(200), 1.0, 1.0))


@given(sensitivity=st.floats(1e-6, 1e6))
def test_the_spacing_is_a_power_of_two_that_fits_the_sensitivity(sensitivity: float) -> None:
    spacing = grid_spacing(sensitivity)
    assert math.frexp(spacing)[0] == 0.5
    assert 2.0**-31 < spacing / sensitivity <= 2.0**-30


@pytest.mark.parametrize(("sensitivity", "deviation"), [(1.0, 0.7), (0.3, 2.0), (5.0, 40.0)])
def test_every_value_lies_on_the_grid(sensitivity: float, deviation: float) -> None:
    total = np.random.default_rng(0).normal(0.0, 100.0 * sensitivity, size=(40, 50))
    steps = noised_on_grid(total, sensitivity, deviation) / grid_spacing(sensitivity)
    assert steps.shape == total.shape
    np.testing.assert_array_equal(steps, np.rint(steps))


@pytest.mark.parametrize(("sensitivity", "deviation"), [(1.0, 0.7), (0.3, 2.0), (5.0, 0.05)])
def test_noise_has_the_planned_deviation(
    deviation_is: DeviationIs, sensitivity: float, deviation: float
) -> None:
    total = np.random.default_rng(0).normal(0.0, 100.0, size=(20, 2000))
    assert deviation_is(noised_on_grid(total, sensitivity, deviation) - total, deviation)


def test_the_chi_square_of_noise_sees_four_percent() -> None:
    """The power of the test above: a deviation 4% too small does not pass."""
    values = noised_on_grid(np.zeros(40_000), 1.0, 0.96)
    assert stats.chi2.cdf(float((values**2).sum()), values.size) < 0.5 * FALSE_ALARM


def test_noise_is_gaussian() -> None:
    values = noised_on_grid(np.full(40_000, 7.0), 1.0, 2.0)
    assert stats.kstest(values, stats.norm(7.0, 2.0).cdf).pvalue > FALSE_ALARM


def test_steps_have_the_chances_of_the_discrete_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid as coarse as the noise, where a rounded Gaussian has other chances."""
    monkeypatch.setattr(grid, "SPACING_BITS", 0)
    monkeypatch.setattr(grid, "LEAST_DEVIATION", 0.5)
    deviation, reach, count = 0.6, 2, 100_000
    steps = noised_on_grid(np.zeros(count), 1.0, deviation)
    observed = np.bincount(np.clip(steps, -reach, reach).astype(np.int64) + reach, minlength=5)

    def ends_joined(chances: Floats) -> Floats:
        """Chances over the five cells; what lies beyond counts at the ends."""
        middle = len(chances) // 2
        result = chances[middle - reach : middle + reach + 1].copy()
        result[0] = result[-1] = (1.0 - result[1:-1].sum()) / 2.0
        return result

    rounded = np.diff(stats.norm.cdf(np.arange(-20, 22) - 0.5, scale=deviation))
    exact = ends_joined(pmf(deviation, 20))
    assert stats.chisquare(observed, exact * count).pvalue > FALSE_ALARM
    assert stats.chisquare(observed, ends_joined(rounded) * count).pvalue < FALSE_ALARM


@pytest.mark.parametrize("dimension", [1, 80_000, grid.WIDEST])
@pytest.mark.parametrize(("sensitivity", "deviation"), [(1.0, 0.5), (0.37, 3.0), (1.0, 40.0)])
def test_opendp_certifies_the_planned_multiplier_with_rounding_counted(
    dimension: int, sensitivity: float, deviation: float
) -> None:
    """Its map gives rho of zCDP, ``(S / s)**2 / 2``, after rounding of so many coordinates."""
    measurement = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T=float, nan=False), size=dimension),
        dp.l2_distance(T=float),
        scale=deviation * grid.INFLATION,
        k=int(math.log2(grid_spacing(sensitivity))),
    )
    rho = measurement.map(sensitivity)
    assert rho <= (sensitivity / deviation) ** 2 / 2.0
    assert rho == pytest.approx((sensitivity / deviation) ** 2 / 2.0, rel=1e-4)


def test_the_added_deviation_pays_for_both_roundings_in_rational_numbers() -> None:
    least = Fraction(grid.LEAST_DEVIATION)
    drawn = least * Fraction(grid.INFLATION)
    apart = 1 + Fraction(math.isqrt(grid.WIDEST), 2**grid.SPACING_BITS)
    assert math.isqrt(grid.WIDEST) ** 2 == grid.WIDEST
    assert drawn**2 - 4**2 >= (least * apart) ** 2
    assert peikert(4.0) < 2e-137


@pytest.mark.parametrize("width", [0.5, 0.7, 1.0])
def test_a_randomly_rounded_gaussian_is_discrete_gaussian_up_to_peikerts_bound(
    width: float,
) -> None:
    """Computed where c is large enough to be seen: 0.014, 1.3e-4 and 5.4e-9."""
    inner, c = 1.5, peikert(width)
    places = np.arange(-30, 31)

    def chance(place: int) -> float:
        def at(x: float) -> float:
            weights = np.exp(-0.5 * ((places - x) / width) ** 2)
            return float(stats.norm.pdf(x, scale=inner) * weights[place + 30] / weights.sum())

        return integrate.quad(at, -14.0, 14.0, epsabs=1e-14, epsrel=1e-12, limit=400)[0]

    expected = pmf(math.hypot(inner, width), 30)
    ratios = [chance(place) / expected[place + 30] for place in range(5)]
    assert max(ratios) <= (1.0 + c) / (1.0 - c) + 1e-10
    assert min(ratios) >= (1.0 - c) / (1.0 + c) - 1e-10


@pytest.mark.parametrize("shift", [1, 3, 8])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_the_discrete_gaussian_keeps_the_continuous_delta(shift: int, epsilon: float) -> None:
    inner, width = 3.0, 1.0
    delta = discrete_delta(epsilon, math.hypot(inner, width), shift)
    more = 4.0 * peikert(width)
    assert 0.0 < delta <= gaussian_delta(epsilon - more, inner / shift) * (1.0 + more)


def test_the_discrete_gaussian_of_equal_deviation_has_a_greater_delta() -> None:
    """Why the deviation is raised for the grid: without it, delta is 17% above the claim here."""
    assert discrete_delta(3.0, 3.0, 1) > 1.15 * gaussian_delta(3.0, 3.0)


def test_the_largest_sums_keep_every_step_of_the_grid() -> None:
    """Where float64 lost the last step, all results were even; by chance once in 2**199 runs."""
    spacing = grid_spacing(1.0)
    steps = noised_on_grid(np.full(200, 2.0**52 * spacing), 1.0, 2.0**13) / spacing
    assert set((steps % 2.0).tolist()) == {0.0, 1.0}


def test_two_draws_are_uncorrelated() -> None:
    first, second = (noised_on_grid(np.zeros(20_000), 1.0, 1.0) for _ in range(2))
    assert stats.pearsonr(first, second).pvalue > FALSE_ALARM


def test_coordinates_are_uncorrelated_with_their_neighbours() -> None:
    values = noised_on_grid(np.zeros(20_000), 1.0, 1.0)
    assert stats.pearsonr(values[:-1], values[1:]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_two_processes_draw_the_same_noise(method: str) -> None:
    """Two processes share a value by chance in 1e-5 of pairs; three values never."""
    context = multiprocessing.get_context(method)
    drawn = [noised_on_grid(np.zeros(200), 1.0, 1.0)]
    for _ in range(2):
        ours, theirs = context.Pipe()
        child = context.Process(target=_send_noise, args=(theirs,))
        child.start()
        theirs.close()
        drawn.append(ours.recv())
        child.join()
    drawn.append(noised_on_grid(np.zeros(200), 1.0, 1.0))
    assert len(np.unique(np.concatenate(drawn))) > 4 * 200 - 3


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf, 2.0**-19, 2.0**16])
def test_a_deviation_that_does_not_fit_the_grid_is_refused(deviation: float) -> None:
    with pytest.raises(PrivacyError, match="plan another noise multiplier"):
        noised_on_grid(np.zeros(3), 1.0, deviation)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**22 + 1.0, -(2.0**23)])
def test_a_sum_that_does_not_fit_the_grid_is_refused(value: float) -> None:
    with pytest.raises(PrivacyError, match="not finite or is larger than") as refusal:
        noised_on_grid(np.array([0.0, value]), 1.0, 1.0)
    assert str(value) not in str(refusal.value)


def test_a_sum_of_too_many_coordinates_is_refused() -> None:
    with pytest.raises(PrivacyError, match="at most 16777216 coordinates"):
        noised_on_grid(np.broadcast_to(np.zeros(1), (grid.WIDEST + 1,)), 1.0, 1.0)


def test_an_empty_sum_stays_empty() -> None:
    assert noised_on_grid(np.zeros((0, 3)), 1.0, 1.0).shape == (0, 3)


def test_without_opendp_discrete_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    grid._opendp.cache_clear()
    with pytest.raises(PrivacyError, match="install opendp"):
        noised_on_grid(np.zeros(3), 1.0, 1.0)

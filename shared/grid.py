"""Discrete Gaussian noise on a fixed-point grid, so that no bit of a float tells of the sum.

A Gaussian in floating point reaches some values and not others, and which ones depends on the sum
beneath it (Mironov, CCS 2012; Jin et al., S&P 2022). Here the sum is rounded to a grid and OpenDP
adds whole numbers of grid steps from the exact discrete Gaussian (Canonne, Kamath and Steinke,
NeurIPS 2020) over randomness of its own, drawn from the operating system. Whatever is done to the
result, rounding to float32 included, is post-processing.

The accountant counts a continuous Gaussian. Why the same epsilon and delta hold here: let ``h`` be
the spacing, ``S`` the sensitivity, ``s`` the planned deviation, ``t = s (1 + 2**-17)`` the one that
is drawn, and ``d`` the coordinates of the release.

1. Rounding to the grid moves two neighbouring sums apart by at most ``h sqrt(d)`` more. With
   ``h <= 2**-30 S`` and ``d <= 2**24`` that is ``2**-18 S``.
2. Take a Gaussian of deviation ``r`` where ``r**2 = t**2 - (4 h)**2``, and round its value x to a
   grid point y at random, with a chance proportional to ``exp(-(y - x)**2 / (2 (4 h)**2))``. That
   is post-processing. Its result has the discrete Gaussian's chance of deviation t at every point,
   up to a factor ``(1 + c) / (1 - c)``, where ``c = 2 exp(-2 pi**2 4**2) < 2e-137`` up to terms
   that are smaller still (Peikert, CRYPTO 2010, theorem 3.1; here c is Poisson summation).
3. So noise of deviation t on the grid is as private as a continuous Gaussian of deviation r on
   sums ``S (1 + 2**-18)`` apart, but for ``4 c d < 2e-129`` more epsilon, and delta times
   ``exp(2 c d)``. With ``s >= 2**12 h``, ``r**2 >= s**2 ((1 + 2**-17)**2 - 2**-20)``, which is
   above ``s**2 (1 + 2**-18)**2``: the planned noise multiplier is kept, with some to spare.

Noise that K organisations share adds up on the grid in the same way.
"""

import functools
import math
from types import ModuleType

import numpy as np
import numpy.typing as npt

from shared.errors import PrivacyError

SPACING_BITS = 30
WIDEST = 2**24
INFLATION = 1.0 + 2.0**-17
# In grid steps. The least is the one of point 3 above; a sum within its bound stays below 2**53
# with noise 128 deviations out, so float64 holds the result exactly.
LEAST_DEVIATION = 2.0**12
GREATEST_DEVIATION = 2.0**45
GREATEST_SUM = 2.0**52


def grid_spacing(sensitivity: float) -> float:
    """The power of two that is at most ``2**-30`` of the sensitivity, and more than half that."""
    return math.ldexp(1.0, _exponent(sensitivity))


def noised_on_grid(
    total: npt.NDArray[np.float64], sensitivity: float, deviation: float
) -> npt.NDArray[np.float64]:
    """Round a sum to the grid and add discrete Gaussian noise; the result lies on the grid.

    Args:
        total: the sum of users' rows, of any shape, float64. Private. Arrays that one release
            splits over several calls may have ``2**24`` coordinates together.
        sensitivity: L2 bound by which one user moves ``total``, over all coordinates of the
            release, rounding of the sum itself included.
        deviation: planned standard deviation of the noise; ``2**-17`` of it is added.

    Raises:
        PrivacyError: for no noise, and for a sum, a size or a deviation beyond what the argument
            above and float64 hold. Sums of fewer than ``2**21`` users' rows always fit, so the
            refusal of a sum says no more than that.
    """
    spacing = grid_spacing(sensitivity)
    if not LEAST_DEVIATION * spacing <= deviation <= GREATEST_DEVIATION * spacing:
        raise PrivacyError(
            f"discrete noise of deviation {deviation:g} for sensitivity {sensitivity:g} does not "
            f"fit its grid: the deviation must lie between {LEAST_DEVIATION * spacing:g} and "
            f"{GREATEST_DEVIATION * spacing:g}; plan another noise multiplier"
        )
    if total.size > WIDEST:
        raise PrivacyError(
            f"discrete noise covers at most {WIDEST} coordinates, the sum has {total.size}; "
            "release fewer items or train a smaller adapter"
        )
    # Also false for NaN, which OpenDP would take for a number.
    if not bool(np.all(np.abs(total) <= GREATEST_SUM * spacing)):
        raise PrivacyError(
            "a sum to which discrete noise is added is not finite or is larger than "
            f"{GREATEST_SUM * spacing:g}, the most that float64 holds exactly on the grid; check "
            "that rows are clipped, and split organisations of more than two million users"
        )
    if total.size == 0:
        return total.astype(np.float64)
    dp = _opendp()
    noise = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T=float, nan=False), size=total.size),
        dp.l2_distance(T=float),
        scale=deviation * INFLATION,
        k=_exponent(sensitivity),
    )
    return np.array(noise(total.ravel()), dtype=np.float64).reshape(total.shape)


def _exponent(sensitivity: float) -> int:
    return math.frexp(sensitivity)[1] - 1 - SPACING_BITS


@functools.cache
def _opendp() -> ModuleType:
    try:
        import opendp.prelude as dp
    except ImportError as error:
        raise PrivacyError(
            f"discrete noise needs OpenDP, which cannot be loaded: {error}; install opendp or set "
            'privacy.distribution = "gaussian"'
        ) from error
    dp.enable_features("contrib")
    return dp

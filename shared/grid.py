"""Discrete Gaussian noise on a fixed-point grid, so that no bit of a float tells of the sum.

A Gaussian in floating point reaches some values and not others, and which ones depends on the sum
beneath it (Mironov, CCS 2012; Jin et al., S&P 2022). Here the sum is rounded to a grid and whole
numbers of grid steps from the discrete Gaussian (``shared.discrete_gaussian``) are added. Whatever
is done to the result, rounding to float32 included, is post-processing.

The accountant counts a continuous Gaussian. Why the same epsilon and delta hold here: let ``S`` be
the sensitivity, ``b`` the grid's bits, ``h <= 2**-b S`` its spacing, ``s`` the planned deviation,
``t = s (1 + a)`` the one that is drawn, and ``d <= 2**24`` the coordinates of the release. There
are two grids: that of one organisation alone with b = 30 and a = 2**-17, and that of a secure sum,
whose numbers shall be short, with b = 23 and a = 2**-10.

1. Rounding to the grid moves two neighbouring sums apart by at most ``h sqrt(d)`` more. That is
   ``e S`` with e = 2**-18 for b = 30 and e = 2**-11 for b = 23.
2. Take a Gaussian of deviation ``r`` where ``r**2 = t**2 - (4 h)**2``, and round its value x to a
   grid point y at random, with a chance proportional to ``exp(-(y - x)**2 / (2 (4 h)**2))``. That
   is post-processing. Its result has the discrete Gaussian's chance of deviation t at every point,
   up to a factor ``(1 + c) / (1 - c)``, where ``c = 2 exp(-2 pi**2 4**2) < 2e-137`` up to terms
   that are smaller still (Peikert, CRYPTO 2010, theorem 3.1; here c is Poisson summation).
3. So noise of deviation t on the grid is as private as a continuous Gaussian of deviation r on
   sums ``S (1 + e)`` apart, but for ``4 c d < 2e-129`` more epsilon, and delta times
   ``exp(2 c d)``. With ``s >= 2**12 h``, ``(4 h)**2 <= 2**-20 s**2``, so that ``(r / s)**2`` is at
   least ``(1 + a)**2 - 2**-20``: for b = 30 above 1 + 13 * 2**-20, where ``(1 + e)**2`` is below
   1 + 9 * 2**-20, and for b = 23 exactly 1 + 2**-9, where it is below 1 + 1.01 * 2**-10. The
   planned noise multiplier is kept, with some to spare; one rounding of t by 2**-53 is in that.

Noise that k organisations share: one user moves one organisation's sum, so point 1 holds as it
stands. Each adds its own discrete Gaussian of deviation ``t >= 2**12 h``. At every point the sum of
the k has the chance of one discrete Gaussian of deviation ``t sqrt(k)`` up to a factor whose
logarithm is at most ``10 sum_j exp(-2 pi**2 (t / h)**2 j / (j + 1))``, j from 1 to k - 1 (Kairouz,
Liu and Steinke, ICML 2021, on convolutions of many discrete Gaussians). With ``t >= 2**12 h`` every
exponent is below -1.6e8: over all coordinates that is less than ``10 d k exp(-1.6e8)``, which
begins 6e7 places behind the point for any k that there can be. Points 2 and 3 go on with
``t sqrt(k)`` and ``s sqrt(k)``.
"""

import math

import numpy as np
import numpy.typing as npt

from shared.discrete_gaussian import discrete_gaussian
from shared.errors import PrivacyError
from shared.randomness import PrivateRandom

# Of the grid on which one organisation releases alone, and of that of a secure sum.
PLAIN_BITS, SECURE_BITS = 30, 23
GRID_BITS = frozenset({PLAIN_BITS, SECURE_BITS})
WIDEST = 2**24
# One more than a of the argument above.
INFLATION = {PLAIN_BITS: 1.0 + 2.0**-17, SECURE_BITS: 1.0 + 2.0**-10}
# In grid steps. The least is the one of point 3 above; a sum within its bound stays below 2**53
# with noise 32 deviations out, so float64 holds the result exactly.
LEAST_DEVIATION = 2.0**12
GREATEST_DEVIATION = 2.0**45
GREATEST_SUM = 2.0**52


def grid_spacing(sensitivity: float, bits: int) -> float:
    """The power of two that is at most ``2**-bits`` of the sensitivity, and more than half that."""
    return math.ldexp(1.0, math.frexp(sensitivity)[1] - 1 - bits)


def noised_on_grid(
    total: npt.NDArray[np.float64],
    sensitivity: float,
    deviation: float,
    bits: int,
    random: PrivateRandom,
) -> npt.NDArray[np.float64]:
    """Round a sum to the grid and add discrete Gaussian noise; the result lies on the grid.

    Args:
        total: the sum of users' rows, of any shape, float64. Private. Arrays that one release
            splits over several calls may have ``2**24`` coordinates together.
        sensitivity: L2 bound by which one user moves ``total``, over all coordinates of the
            release, rounding of the sum itself included.
        deviation: planned standard deviation of the noise, which is drawn ``INFLATION[bits]``
            times as large.
        bits: of the grid, one of ``GRID_BITS``.
        random: that the noise is drawn from.

    Raises:
        PrivacyError: for no noise, and for a grid, a sum, a size or a deviation beyond what the
            argument above and float64 hold. Sums of fewer than ``2**21`` users' rows always fit,
            so the refusal of a sum says no more than that.
    """
    if bits not in INFLATION:
        raise PrivacyError(
            f"there is no grid of {bits} bits for discrete noise; plan one of "
            f"{', '.join(map(str, sorted(INFLATION)))}"
        )
    spacing = grid_spacing(sensitivity, bits)
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
    steps = total / spacing
    # Also false for NaN.
    if not bool(np.all(np.abs(steps) <= GREATEST_SUM)):
        raise PrivacyError(
            "a sum to which discrete noise is added is not finite or is larger than "
            f"{GREATEST_SUM * spacing:g}, the most that float64 holds exactly on the grid; check "
            "that rows are clipped, and split organisations of millions of users"
        )
    drawn = discrete_gaussian(total.size, deviation * INFLATION[bits] / spacing, random)
    noised: npt.NDArray[np.float64] = np.rint(steps) + drawn.reshape(total.shape)
    return noised * np.float64(spacing)

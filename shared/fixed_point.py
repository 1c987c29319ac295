"""Sums as whole numbers modulo a power of two: what is masked, added up and decoded.

A noised sum lies on its mechanism's grid (``shared.grid``). Divided by the grid's spacing h it is a
vector of whole numbers; these are taken modulo M = 2**(8 w) with w bytes a number, and the sum of
all organisations is read back as the number between -M / 2 and M / 2.

Wrap-around. Organisation i clamps each coordinate of its sum to ``REACH`` times its declared users
times the sensitivity S before it adds noise (clamping moves two neighbouring sums no further apart,
so it costs no privacy). Its noise is a discrete Gaussian of parameter s_i, which is sub-Gaussian
with that parameter: E exp(u X) is exp(u**2 s_i**2 / 2) times a sum of exp(-x**2 / (2 s_i**2)) over
the whole numbers moved by u s_i**2, over the same sum unmoved, and by Poisson summation the unmoved
is the largest. So the sum of n of them is sub-Gaussian with s = sqrt(n) max s_i, and a coordinate
passes TAIL s with probability at most 2 exp(-TAIL**2 / 2). With TAIL = 12 and 2**24 coordinates
that is below 2**25 exp(-72) < 2e-24 for a release, and below 1e-12 for 5e11 of them. Rounding adds
half a step for each organisation. ``word_bytes`` takes the least w for which
REACH U S + TAIL s + n h / 2 < M h / 2, U the declared users of all.

A number that wraps all the same is wrong and tells no more: reduction modulo M is applied to the
noised sum, after the noise.
"""

import math

import numpy as np
import numpy.typing as npt

from shared.errors import PrivacyError
from shared.grid import INFLATION, SECURE_BITS, grid_spacing

Words = npt.NDArray[np.uint64]

REACH = 4.0
TAIL = 12.0
WORD_BYTES = (4, 5, 6, 7)
# Words of a block, which stays in the processor's cache.
BLOCK = 2**15


def word_bytes(users: int, organisations: int, deviation: float) -> int:
    """Bytes of a masked number, so that sums do not wrap around.

    Args:
        users: declared by all organisations together.
        organisations: that add up.
        deviation: of the noise that one of them adds, over the sensitivity.

    Raises:
        PrivacyError: if none is enough.
    """
    # The spacing is more than half of 2**-SECURE_BITS of the sensitivity.
    most = REACH * users + TAIL * math.sqrt(organisations) * deviation * INFLATION[SECURE_BITS]
    steps = most * 2.0 ** (SECURE_BITS + 1) + organisations
    for size in WORD_BYTES:
        if steps < 2.0 ** (8 * size - 1):
            return size
    raise PrivacyError(
        f"sums of {users} users with noise of {deviation:g} sensitivities do not fit "
        f"{WORD_BYTES[-1]} bytes a number; split the federation"
    )


def clamped(
    total: npt.NDArray[np.float64], declared_users: int, sensitivity: float
) -> npt.NDArray[np.float64]:
    """A sum with each coordinate within ``REACH`` times the declared users times the sensitivity.

    Not a number, which no sum of clipped rows is, becomes 0.
    """
    bound = REACH * declared_users * sensitivity
    within = np.clip(total, -bound, bound)
    within[np.isnan(within)] = 0.0
    return within


def to_words(noised: npt.NDArray[np.float64], sensitivity: float, bits: int) -> Words:
    """A noised sum as whole numbers modulo 2**64, in grid steps.

    Args:
        noised: of any shape, on the grid or near it; rounding to it is post-processing.
        sensitivity, bits: of the mechanism's grid.

    Returns:
        ``[coordinates] uint64``.
    """
    steps = np.rint(noised.ravel() / grid_spacing(sensitivity, bits))
    return steps.astype(np.int64).view(np.uint64)


def from_words(total: Words, size: int, sensitivity: float, bits: int) -> npt.NDArray[np.float64]:
    """What a sum of words modulo ``2**(8 size)`` stands for, ``[coordinates] float64``.

    Exact up to 6 bytes; beyond ``2**53`` steps, which 7 bytes hold, rounded to a float.
    """
    unused = np.uint64(64 - 8 * size)
    # Shifted up and down again, the highest bit that counts becomes the sign.
    signed = (total << unused).view(np.int64) >> np.int64(unused)
    return signed * np.float64(grid_spacing(sensitivity, bits))


def packed(words: Words, size: int) -> npt.NDArray[np.uint8]:
    """The lowest ``size`` bytes of each word, ``[coordinates, size] uint8``."""
    little = np.ascontiguousarray(words, dtype="<u8")
    return np.ascontiguousarray(little.view(np.uint8).reshape(-1, 8)[:, :size])


def unpacked(rows: npt.NDArray[np.uint8]) -> Words:
    """Words from ``[coordinates, size] uint8``."""
    words = np.zeros(len(rows), dtype=np.uint64)
    add_packed(words, rows)
    return words


def add_packed(words: Words, rows: npt.NDArray[np.uint8]) -> None:
    """Add ``[coordinates, size] uint8`` to words, in place and modulo 2**64."""
    wide = np.zeros((BLOCK, 8), dtype=np.uint8)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        wide[: len(part), : rows.shape[1]] = part
        words[start : start + BLOCK] += wide[: len(part)].view("<u8").reshape(-1)

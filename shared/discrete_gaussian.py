"""Exact discrete Gaussian noise: whole numbers z with chance proportional to exp(-z^2 / (2 s^2)).

The target is that of Canonne, Kamath and Steinke (NeurIPS 2020); the way is rejection from blocks
(Ducas, Durmus, Lepoint and Lyubashevsky, CRYPTO 2013, section 6; Karney, ACM TOMS 2016), for whole
arrays at once. With K the power of two for which s / K lies between 8 and 16 (1 for s below 8):

1. a block x >= 0 with chance proportional to ``exp(-(x K)**2 / (2 s**2))``, from a table;
2. a place y in the block, uniform in [0, K), and a sign: random bits;
3. keep ``z = x K + y`` with chance ``exp(-y (y + 2 K x) / (2 s**2))``, begin again otherwise, and
   also at -0, which would count zero twice.

The first two chances of z multiply to ``exp(-z**2 / (2 s**2))`` up to a factor that is the same for
all z. Nineteen in twenty proposals are kept.

Exactness. The deviation s is taken as the rational number that the float is. A choice with chance
p compares p with a uniform number of 256 bits, of which mostly the first 64 are looked at:

- Of a block: the table's cuts are whole numbers of 256 bits. Sixty-four bits decide unless they are
  equal to those of a cut (once in 2**55 or so); then the other 192 are drawn.
- Of a place: p in float64 decides where it differs from the uniform by more than MARGIN = 2**-32.
  Its error is far below: y, x K and y + 2 K x are whole numbers below 2**53; the product, the
  factor 1 / (2 s**2) and their product are rounded by 2**-53 each, so that the exponent, below 3,
  is off by less than 2**-49; 2**-33 is left to an exponential function, whose error is 2**-50 where
  it is poor, and 2**-53 to the uniform's bits that float64 leaves out. Else, once in 2**31, p is
  computed with 110 digits and the other 192 bits are drawn.

What is left: each of at most 303 cuts, and p, is off by at most 2**-256, and blocks from 19 s on,
whose chance together is below 2**-256, are left out. At least half of the proposals are kept, so
that a number's distribution is within 2**-240, in statistical distance, of the discrete Gaussian.
For 2**24 coordinates, 50 organisations and 10**6 releases that is 2**-190; it adds
``(1 + exp(epsilon)) 2**-190`` to delta, less than 2**-74 for every epsilon below 80, while the
least delta that is accounted for is 1e-12, nearly 2**-40. What the noise really rests on is AES
(``shared.randomness``).

How long a call takes depends on how many proposals were not kept, of which the numbers that were
kept are independent.
"""

import bisect
import decimal
import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from shared.errors import PrivacyError
from shared.randomness import PrivateRandom

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

LEAST, GREATEST = 0.5, 2.0**46
MARGIN = 2.0**-32
REACH = 19
DIGITS = 110
BITS, WORD_BITS, LOOKUP_BITS = 256, 64, 14
# Proposals drawn at once; some 6 MB.
BLOCK = 2**16


@dataclass(frozen=True)
class _Table:
    """What is computed once for a deviation.

    Attributes:
        precision: ``1 / (2 deviation**2)``.
        width_bits: of K, which is ``2**width_bits``.
        cuts: chance of blocks 0 to x, in units of ``2**-BITS``, for all blocks but the last.
        heads: the first ``WORD_BITS`` of each.
        blocks: by the first ``LOOKUP_BITS`` of a uniform: its block, or -1 where there are several.
    """

    precision: Fraction
    width_bits: int
    cuts: tuple[int, ...]
    heads: Words
    blocks: npt.NDArray[np.int16]


def discrete_gaussian(size: int, deviation: float, random: PrivateRandom) -> Ints:
    """Independent draws of the discrete Gaussian, ``[size] int64``, each below 2**51 in size.

    Args:
        size: how many.
        deviation: the parameter s above, in steps of the grid; from 8 on the standard deviation is
            the same to the last bit of a float.
        random: drawn from, 24 bytes a proposal.

    Raises:
        PrivacyError: if the deviation is not between ``LEAST`` and ``GREATEST``.
    """
    if not LEAST <= deviation <= GREATEST:
        raise PrivacyError(
            f"discrete noise of deviation {deviation:g} grid steps cannot be drawn: it must lie "
            f"between {LEAST:g} and {GREATEST:g}; plan another noise multiplier"
        )
    table = _table(deviation)
    drawn = np.empty(size, dtype=np.int64)
    done = 0
    while done < size:
        left = size - done
        kept = _proposals(min(BLOCK, left + left // 8 + 32), table, random)[:left]
        drawn[done : done + len(kept)] = kept
        done += len(kept)
    return drawn


def _proposals(count: int, table: _Table, random: PrivateRandom) -> Ints:
    choices, places, uniforms = _words((3, count), random)
    block = _blocks(choices, table, random)
    place = (places & np.uint64(2**table.width_bits - 1)).view(np.int64)
    negative = (places >> np.uint64(63)).view(np.int64)
    base = block << table.width_bits
    kept = _kept(base, place, uniforms, table, random)
    size = base + place
    kept &= (size | (negative ^ 1)) != 0
    signed: Ints = (size ^ -negative) + negative
    return signed[kept]


def _blocks(uniforms: Words, table: _Table, random: PrivateRandom) -> Ints:
    lookup = (uniforms >> np.uint64(WORD_BITS - LOOKUP_BITS)).view(np.int64)
    found = table.blocks[lookup].astype(np.int64)
    several = np.flatnonzero(found < 0)
    if several.size:
        unclear = uniforms[several]
        places = np.searchsorted(table.heads, unclear, side="right")
        for tie in np.flatnonzero(np.isin(unclear, table.heads)):
            places[tie] = bisect.bisect_right(table.cuts, _extended(unclear[tie], random))
        found[several] = places
    return found


def _kept(
    base: Ints, place: Ints, uniforms: Words, table: _Table, random: PrivateRandom
) -> npt.NDArray[np.bool_]:
    exponents = place.astype(np.float64) * (place + 2 * base) * -float(table.precision)
    gaps = np.exp(exponents) - (uniforms >> np.uint64(11)) * 2.0**-53
    kept: npt.NDArray[np.bool_] = gaps > 0.0
    for unsure in np.flatnonzero(np.abs(gaps) <= MARGIN):
        y, base_of_y = int(place[unsure]), int(base[unsure])
        chance = _scaled(_exp(-table.precision * y * (y + 2 * base_of_y)))
        kept[unsure] = _extended(uniforms[unsure], random) < chance
    return kept


@functools.lru_cache(maxsize=64)
def _table(deviation: float) -> _Table:
    precision = 1 / (2 * Fraction(deviation) ** 2)
    width_bits = max(0, math.frexp(deviation)[1] - 4)
    last = math.ceil(REACH * Fraction(deviation) / 2**width_bits)
    with decimal.localcontext(prec=DIGITS):
        weights = [_exp(-precision * (x * 2**width_bits) ** 2) for x in range(last)]
        total = sum(weights, decimal.Decimal(0))
        below = decimal.Decimal(0)
        cuts = []
        for weight in weights[:-1]:
            below += weight
            cuts.append(_scaled(below / total))
    heads = np.array([cut >> (BITS - WORD_BITS) for cut in cuts], dtype=np.uint64)
    # A bucket has one block where no cut's first bits are the bucket's.
    buckets = np.arange(2**LOOKUP_BITS, dtype=np.uint64) << np.uint64(WORD_BITS - LOOKUP_BITS)
    blocks = np.searchsorted(heads, buckets, side="right").astype(np.int16)
    blocks[heads >> np.uint64(WORD_BITS - LOOKUP_BITS)] = -1
    return _Table(precision, width_bits, tuple(cuts), heads, blocks)


def _exp(exponent: Fraction) -> decimal.Decimal:
    with decimal.localcontext(prec=DIGITS):
        return (decimal.Decimal(exponent.numerator) / exponent.denominator).exp()


def _scaled(chance: decimal.Decimal) -> int:
    with decimal.localcontext(prec=DIGITS):
        return int(chance * 2**BITS)


def _extended(word: np.uint64, random: PrivateRandom) -> int:
    """A uniform of ``BITS`` that begins with the word."""
    value = int(word)
    for more in _words((BITS // WORD_BITS - 1,), random):
        value = value << WORD_BITS | int(more)
    return value


def _words(shape: tuple[int, ...], random: PrivateRandom) -> Words:
    return random.generator.integers(0, 2**WORD_BITS, size=shape, dtype=np.uint64)

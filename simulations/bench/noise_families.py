"""``tacit bench secure --families``: Skellam or discrete Gaussian noise, shared by organisations.

Both are whole numbers, so that a secure sum can carry them. A sum of Skellams is a Skellam
(Agarwal, Kairouz and Liu, NeurIPS 2021); a sum of discrete Gaussians nearly is a discrete Gaussian
(Kairouz, Liu and Steinke, ICML 2021). Compared with the same variance in the sum, on the same
grids: what a release costs, how many bits a number needs, and how long a sample takes.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from rich.console import Console
from scipy.optimize import brentq

from shared.accounting import Event, epsilon_coarse
from shared.discrete_gaussian import discrete_gaussian
from shared.fixed_point import REACH, TAIL
from shared.randomness import PrivateRandom, from_operating_system
from simulations.bench.printing import measured_table

GAUSSIAN, SKELLAM = "discrete Gaussian", "Skellam"
BITS = (8, 12, 16, 23)
MULTIPLIERS = (1.0, 4.0, 16.0)
ORDERS = range(2, 1025)
# Of the random rounding in the argument of ``shared.grid``, in grid steps.
ROUNDING = 4.0


@dataclass(frozen=True)
class FamilyRow:
    """One family of noise on one grid. Epsilons are of sums in whole grid steps, of sensitivity 1.

    Attributes:
        family: ``discrete Gaussian`` or ``Skellam``.
        bits: of the grid: its spacing is ``2**-bits``.
        noise_multiplier: deviation of the noise in the sum, over the sensitivity.
        epsilon_rdp: of one release, by Rényi differential privacy.
        releases_rdp: of ``releases`` releases.
        epsilon_pld, releases_pld: by privacy loss distributions; None where no bound is known for
            many coordinates.
        number_bits: of a number in the sum, so that it does not wrap around.
        sample_us: microseconds of the processor for one organisation's share of one coordinate.
    """

    family: str
    bits: int
    noise_multiplier: float
    epsilon_rdp: float
    releases_rdp: float
    epsilon_pld: float | None
    releases_pld: float | None
    number_bits: int
    sample_us: float


def measure(
    organisations: int = 8,
    users: int = 1000,
    coordinates: int = 60_000,
    releases: int = 25,
    delta: float = 1e-5,
    samples: int = 1_000_000,
    told: Callable[[str], None] = lambda _: None,
) -> list[FamilyRow]:
    """Compare the families for every grid and every noise multiplier.

    Args:
        organisations: that add an equal share of the variance each.
        users: of all, for the bits of a number.
        coordinates: of a release.
        releases: composed.
        delta: at which epsilon is stated.
        samples: that are timed.
        told: is told what runs next.
    """
    rows = []
    for bits, multiplier in itertools.product(BITS, MULTIPLIERS):
        told(f"{bits} bits, noise multiplier {multiplier:g}")
        deviation = multiplier * 2.0**bits
        share = deviation / math.sqrt(organisations)
        # Rounding moves neighbouring sums apart by up to a step in every coordinate.
        apart = 2.0**bits + math.sqrt(coordinates)
        apart_l1 = min(apart**2, apart * math.sqrt(coordinates))
        rdp_of = {
            GAUSSIAN: gaussian_rdp(apart, deviation, organisations, coordinates),
            SKELLAM: skellam_rdp(apart, apart_l1, deviation),
        }
        tail_of = {GAUSSIAN: TAIL * deviation, SKELLAM: skellam_tail(deviation)}
        continuous = math.sqrt(deviation**2 - ROUNDING**2) / apart
        for family, rdp in rdp_of.items():
            rdp_one, rdp_many = (
                float(compute_epsilon(ORDERS, count * rdp, delta)[0]) for count in (1, releases)
            )
            pld_one, pld_many = (
                epsilon_coarse([Event(1.0, continuous, count)], delta)
                if family == GAUSSIAN
                else None
                for count in (1, releases)
            )
            most = REACH * users * 2.0**bits + tail_of[family] + organisations
            number_bits = math.ceil(math.log2(most)) + 1
            taken = _sample_us(family, share, samples)
            rows.append(
                FamilyRow(
                    family,
                    bits,
                    multiplier,
                    rdp_one,
                    rdp_many,
                    pld_one,
                    pld_many,
                    number_bits,
                    taken,
                )
            )
    return rows


def gaussian_rdp(
    apart: float, deviation: float, shares: int, coordinates: int
) -> npt.NDArray[np.float64]:
    """Rényi differential privacy of a sum of discrete Gaussians, at ``ORDERS``.

    Kairouz, Liu and Steinke, ICML 2021, on sums in many dimensions.

    Args:
        apart: L2 distance of neighbouring sums, in steps.
        deviation: of the sum of all shares, in steps.
        shares: of equal variance.
        coordinates: of the sum.
    """
    variance = deviation**2 / shares
    bound = 10.0 * sum(
        math.exp(-2.0 * math.pi**2 * variance * j / (j + 1)) for j in range(1, shares)
    )
    loss = min(
        math.sqrt((apart / deviation) ** 2 + bound * coordinates / 2.0),
        apart / deviation + bound * math.sqrt(coordinates),
    )
    return np.array(ORDERS) * loss**2 / 2.0


def skellam_rdp(apart: float, apart_l1: float, deviation: float) -> npt.NDArray[np.float64]:
    """Rényi differential privacy of a Skellam, at ``ORDERS``, which are whole as its bound needs.

    Agarwal, Kairouz and Liu, NeurIPS 2021, the theorem on the multi-dimensional mechanism.

    Args:
        apart, apart_l1: L2 and L1 distance of neighbouring sums, in steps.
        deviation: of the sum of all shares, in steps.
    """
    orders, variance = np.array(ORDERS), deviation**2
    more = ((2.0 * orders - 1.0) * apart**2 + 6.0 * apart_l1) / (4.0 * variance**2)
    return orders * apart**2 / (2.0 * variance) + np.minimum(more, 1.5 * apart_l1 / variance)


def skellam_tail(deviation: float) -> float:
    """What a Skellam passes as rarely as a Gaussian passes ``TAIL`` deviations, by Chernoff."""
    variance = deviation**2

    def exponent(far: float) -> float:
        slope = math.asinh(far / variance)
        return variance * (math.cosh(slope) - 1.0) - far * slope + TAIL**2 / 2.0

    return float(brentq(exponent, 0.5 * TAIL * deviation, 2.0 * TAIL * deviation + TAIL**2))


def print_families(console: Console, rows: Sequence[FamilyRow], releases: int = 25) -> None:
    """A line for each family on each grid."""
    many = f"of {releases}"
    table = measured_table(
        "Noise", "Grid", "Multiplier", "RDP", many, "PLD", many, "Bits", "µs", left=1
    )
    for row in rows:
        pld = (
            "-" if epsilon is None else f"{epsilon:.3f}"
            for epsilon in (row.epsilon_pld, row.releases_pld)
        )
        table.add_row(
            row.family,
            f"2^-{row.bits}",
            f"{row.noise_multiplier:g}",
            f"{row.epsilon_rdp:.3f}",
            f"{row.releases_rdp:.3f}",
            *pld,
            str(row.number_bits),
            f"{row.sample_us:.3f}",
        )
    console.print(table)
    console.print(
        "  RDP, PLD: epsilon of one release and of several, rounding to the grid counted. Bits: of "
        "a number in the sum.\n  µs: of the processor, for one organisation's share of one "
        "coordinate.",
        highlight=False,
    )


def _sample_us(family: str, share: float, samples: int) -> float:
    random = from_operating_system()
    draw = discrete_gaussian if family == GAUSSIAN else _skellam
    draw(1, share, random)
    started = time.process_time()
    draw(samples, share, random)
    return (time.process_time() - started) / samples * 1e6


def _skellam(size: int, deviation: float, random: PrivateRandom) -> npt.NDArray[np.int64]:
    rate = deviation**2 / 2.0
    return random.generator.poisson(rate, size) - random.generator.poisson(rate, size)

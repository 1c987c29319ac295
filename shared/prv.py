"""Epsilon by privacy random variables: Opacus's own code, reached without torch, composed faster.

Opacus composes distributions of a loss on one grid (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848)
with five transforms of the full grid per setting. Here its random variables, its discretisation and
its reading of epsilon stay as they are; each setting is discretised only where it has mass, its
mean is computed exactly, and all are composed in one spectrum.
"""

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from scipy import fft, stats

from shared.errors import PrivacyError

EPSILON_ERROR = 0.01
# A grid beyond it no longer lies in the processor's cache, and time grows out of proportion.
LARGEST_GRID = 2**19
# A Gaussian lies beyond 10 deviations with probability 8e-24.
DEVIATIONS = 10.0
# Whole orders are cheap; an order that is missing only makes the domain larger.
ORDERS = (*range(2, 65), 128, 256)

_PARENT = "shared._opacus_accountants"

Floats = TypeVar("Floats", float, npt.NDArray[np.float64])


class _History:
    """In the place of ``opacus.accountants.accountant``, which imports Opacus's optimizers."""

    def __init__(self) -> None:
        self.history: list[tuple[float, float, int]] = []


def without_torch(name: str) -> ModuleType:
    """The module ``opacus.accountants.<name>``, loaded under a parent of our own name.

    ``import opacus`` imports torch. Nothing named ``opacus`` is loaded or changed here, so that a
    later or earlier ``import opacus`` is what it always is.

    Raises:
        PrivacyError: if Opacus is not installed.
    """
    if _PARENT not in sys.modules:
        found = importlib.util.find_spec("opacus")
        if found is None or not found.submodule_search_locations:
            raise PrivacyError(
                "Opacus is not installed, and epsilon is released by two accountants only: "
                "install tacit's dependencies"
            )
        parent = ModuleType(_PARENT)
        parent.__path__ = [str(Path(found.submodule_search_locations[0]) / "accountants")]
        accountant = ModuleType(f"{_PARENT}.accountant")
        vars(accountant)["IAccountant"] = _History
        sys.modules[accountant.__name__] = accountant
        sys.modules[_PARENT] = parent
    return importlib.import_module(f"{_PARENT}.{name}")


class Bound(NamedTuple):
    """An upper bound of epsilon that lies at most twice ``error`` above the true one."""

    epsilon: float
    error: float


def epsilon_bound(releases: Sequence[tuple[float, float, int]], delta: float) -> Bound:
    """Upper bound of epsilon at ``delta``, with the error that the grid allows.

    The error is ``EPSILON_ERROR`` unless that needs more than ``LARGEST_GRID`` cells; then it is
    what so many cells give.

    Args:
        releases: sampling rate, noise multiplier and count of each setting.
        delta: at which.

    Raises:
        PrivacyError: if Opacus finds its own conditions for the bound not met.
    """
    prv = without_torch("analysis.prv")
    delta_error = delta / 1000
    half_width = _half_width(releases, delta_error)
    # Theorem 5.5 of the paper, as Opacus applies it.
    cells_per_error = math.sqrt(sum(n for *_, n in releases) * math.log(12 / delta_error) / 2)
    error = max(EPSILON_ERROR, 2 * half_width * cells_per_error / (LARGEST_GRID - 4))
    mesh = error / cells_per_error
    size = fft.next_fast_len(math.ceil(2 * half_width / mesh) + 4, real=True)
    size += size % 2
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    start = 0.0
    try:
        for sampling_rate, noise_multiplier, count in releases:
            one = _discrete(prv, sampling_rate, noise_multiplier, half_width, mesh)
            _multiply_power(spectrum, fft.rfft(one.pmf, size), count)
            start += count * one.domain.t_min
        # The composed mass in cell j lies at start + j mesh, modulo the width of the grid.
        first = math.ceil((-half_width - start) / mesh)
        low = start + first * mesh
        domain = prv.Domain(low, low + (size - 1) * mesh, size)
        composed = prv.DiscretePRV(np.roll(fft.irfft(spectrum, size), -(first % size)), domain)
        _, _, epsilon = composed.compute_epsilon(delta, delta_error, error)
    except (RuntimeError, ValueError) as failure:
        raise PrivacyError(
            f"the second accountant cannot bound epsilon at delta {delta:g} for {releases}: "
            f"{failure}; nothing is released on the word of one"
        ) from failure
    # Opacus goes below 0 where delta alone is enough.
    return Bound(max(float(epsilon), 0.0), error)


def largest_loss(sampling_rate: float, noise_multiplier: float) -> float:
    """Privacy loss of one release at ``DEVIATIONS`` deviations above its mean."""
    return _loss(1.0 + DEVIATIONS * noise_multiplier, sampling_rate, noise_multiplier)


def _loss(output: Floats, sampling_rate: float, noise_multiplier: float) -> Floats:
    """``log(1 - q + q N(1, s^2) / N(0, s^2))`` at an output; finite where the ratio underflows."""
    exponent = (2.0 * output - 1.0) / (2.0 * noise_multiplier**2)
    absent = math.log1p(-sampling_rate) if sampling_rate < 1.0 else -math.inf
    return cast(Floats, np.logaddexp(absent, math.log(sampling_rate) + exponent))


class _OneRelease:
    """Privacy loss of one release, as Opacus's ``discretize`` asks for it.

    Opacus integrates the mean to an absolute 1.5e-8 in each of 21 intervals, which a million
    compositions make 0.3 of. The trapezoid rule over the output is exact to rounding.
    """

    def __init__(self, truncated: Any, sampling_rate: float, noise_multiplier: float) -> None:
        self.cdf = truncated.cdf
        self.sampling_rate = sampling_rate
        self.noise_multiplier = noise_multiplier

    def mean(self) -> float:
        q, sigma = self.sampling_rate, self.noise_multiplier
        x, step = np.linspace(-DEVIATIONS * sigma, 1.0 + DEVIATIONS * sigma, 4001, retstep=True)
        density = (1.0 - q) * stats.norm.pdf(x, 0.0, sigma) + q * stats.norm.pdf(x, 1.0, sigma)
        return float(density @ _loss(x, q, sigma) * step)


def _discrete(
    prv: ModuleType, sampling_rate: float, noise_multiplier: float, half_width: float, mesh: float
) -> Any:
    low = _loss(-DEVIATIONS * noise_multiplier, sampling_rate, noise_multiplier)
    high = largest_loss(sampling_rate, noise_multiplier)
    domain = prv.Domain.create_aligned(max(low, -half_width), min(high, half_width), mesh)
    with np.errstate(divide="ignore"):
        # At sampling rate 1 Opacus takes a logarithm of 0, whose branch it then leaves unused.
        truncated = prv.TruncatedPrivacyRandomVariable(
            prv.PoissonSubsampledGaussianPRV(sampling_rate, noise_multiplier),
            domain.t_min,
            domain.t_max,
        )
        release = _OneRelease(truncated, sampling_rate, noise_multiplier)
        return prv.discretize(release, domain)


def _half_width(releases: Sequence[tuple[float, float, int]], delta_error: float) -> float:
    """Remark 5.6 of the paper, as Opacus's ``compute_safe_domain_size`` reads it."""
    rdp = without_torch("analysis.rdp")
    total = sum(count for *_, count in releases)
    costs = np.array(
        [rdp.compute_rdp(q=q, noise_multiplier=s, steps=1, orders=ORDERS) for q, s, _ in releases]
    )

    def epsilon(cost: npt.NDArray[np.float64], delta: float) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Optimal order is the")
            return float(rdp.get_privacy_spent(orders=ORDERS, rdp=cost, delta=delta)[0])

    composed = epsilon(np.array([count for *_, count in releases]) @ costs, delta_error / 4)
    single = max(epsilon(cost, delta_error / (8 * total)) for cost in costs)
    return max(composed, single, EPSILON_ERROR) + 3.0


def _multiply_power(
    product: npt.NDArray[np.complex128], factor: npt.NDArray[np.complex128], count: int
) -> None:
    """``product *= factor ** count`` by squaring, which numpy's power does not use."""
    while count:
        if count & 1:
            product *= factor
        count >>= 1
        if count:
            factor *= factor

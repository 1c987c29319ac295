"""Epsilon of a composition of Poisson-sampled Gaussian mechanisms, by three accountants.

PLD (dp-accounting; Doroshenko et al. 2022, arXiv 2207.04380) is the figure that binds. PRV (Opacus;
Gopi et al. 2021, arXiv 2106.02848) is independent code and checks it. RDP (Mironov 2017) is a
ceiling. Adjacency everywhere: add or remove one user.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.gaussian_mechanism import get_sigma_gaussian
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants.prv import PRVAccountant

from shared.errors import PrivacyError

DISCRETISATION = 1e-4
COARSE_DISCRETISATION = 1e-3
SMALLEST_DELTA = 1e-12
# PRV's own error bound puts it this far above PLD at most (measured over 454 settings).
PRV_ABOVE_PLD = 0.03
# Epsilon is some 80 there: no guarantee, and a hostile plan beyond it would fill the memory of the
# accountants, whose tables grow with epsilon.
LARGEST_MU = 10.0


@dataclass(frozen=True, order=True)
class Event:
    """``count`` releases of a sum over users, each user sampled with probability ``sampling_rate``.

    Attributes:
        sampling_rate: in (0, 1]; 1 is every user.
        noise_multiplier: noise deviation over sensitivity; 0 is no noise.
        count: how many such releases.
    """

    sampling_rate: float
    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 0:
            raise PrivacyError(
                f"{self.count} releases: a count below 0 would cancel what was spent"
            )


Events = tuple[Event, ...]


def merged(events: Iterable[Event]) -> Events:
    """Equal events as one, in a canonical order: composition does not depend on it, cost does."""
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        counts[event.sampling_rate, event.noise_multiplier] += event.count
    return tuple(sorted(Event(q, sigma, n) for (q, sigma), n in counts.items() if n))


def contained(part: Iterable[Event], whole: Iterable[Event]) -> bool:
    """Whether every event of ``part`` is in ``whole`` at least as often: then it costs no more."""
    limits = {(e.sampling_rate, e.noise_multiplier): e.count for e in merged(whole)}
    return all(
        e.count <= limits.get((e.sampling_rate, e.noise_multiplier), 0) for e in merged(part)
    )


def epsilon_pld(
    events: Iterable[Event], delta: float, discretisation: float = DISCRETISATION
) -> float:
    """Epsilon at ``delta`` by privacy loss distributions; errs upward. Infinite without noise."""
    return _epsilon_pld(merged(events), _checked(delta), discretisation)


def epsilon_prv(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` by Opacus's privacy random variables (upper bound, error 0.01)."""
    return _epsilon_prv(merged(events), _checked(delta))


def epsilon_rdp(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` by Rényi differential privacy: a ceiling, never the claim."""
    return _epsilon_rdp(merged(events), _checked(delta))


def epsilon_checked(events: Iterable[Event], delta: float) -> float:
    """PLD's epsilon, confirmed by PRV.

    Raises:
        PrivacyError: if PLD lies above PRV or more than ``PRV_ABOVE_PLD`` below it.
    """
    composed = merged(events)
    pld = epsilon_pld(composed, delta)
    if math.isinf(pld) or not composed:
        return pld
    prv = epsilon_prv(composed, delta)
    if not prv - PRV_ABOVE_PLD <= pld <= prv + 1e-6:
        raise PrivacyError(
            f"the accountants disagree: PLD says epsilon {pld:.4f}, PRV {prv:.4f} for {composed} "
            f"at delta {delta:g}; nothing is released on a figure that is not certain"
        )
    return pld


def calibrate(
    build: Callable[[float], Events], epsilon: float, delta: float, tolerance: float = 1e-4
) -> float:
    """Smallest noise scale s, to a relative ``tolerance``, that keeps to ``epsilon``.

    Args:
        build: the composition at a scale; more scale must be more noise.
        epsilon: target.
        delta: at which.

    Raises:
        PrivacyError: if no scale up to 1e6 reaches the target.
    """
    _checked(delta)
    if all(event.sampling_rate == 1.0 for event in build(1.0)):
        # Gaussian releases over all users compose to one Gaussian exactly; the closed form of
        # Balle and Wang (2018) gives its deviation.
        scale = _joint_sigma_of_one(build) * float(get_sigma_gaussian(epsilon, delta))
    else:
        scale = _bisect(
            lambda s: epsilon_pld(build(s), delta, COARSE_DISCRETISATION) <= epsilon, tolerance
        )
    while epsilon_pld(build(scale), delta) > epsilon:
        scale *= 1.0 + tolerance / 10
    return scale


def _joint_sigma_of_one(build: Callable[[float], Events]) -> float:
    """s for which the composition equals one Gaussian of noise multiplier 1 (it scales with s)."""
    return math.sqrt(sum(e.count / e.noise_multiplier**2 for e in build(1.0)))


def _bisect(enough: Callable[[float], bool], tolerance: float) -> float:
    high = 1.0
    while not enough(high):
        high *= 2.0
        if high > 1e6:
            raise PrivacyError("no noise scale up to 1e6 reaches the target epsilon; raise it")
    low = high / 2.0
    while low > 1e-3 and enough(low):
        low, high = low / 2.0, low
    while high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _checked(delta: float) -> float:
    if not SMALLEST_DELTA <= delta < 1.0:
        raise PrivacyError(
            f"delta = {delta:g}: it must lie between {SMALLEST_DELTA:g}, below which the "
            "accountants are not reliable, and 1; usual is less than 1 / users"
        )
    return delta


def _without_guarantee(events: Events) -> bool:
    """No noise at all, or so little that epsilon says nothing; both count as infinite."""
    if any(event.noise_multiplier <= 0.0 for event in events):
        return True
    return math.fsum(_mu_squared(event) for event in events) > LARGEST_MU**2


def _mu_squared(event: Event) -> float:
    """Of the Gaussian that the event tends to (Dong, Roth and Su 2022, corollary 5.4)."""
    try:
        precision = event.noise_multiplier**-2
        if event.sampling_rate == 1.0:
            return event.count * precision
        return event.count * event.sampling_rate**2 * math.expm1(precision)
    except OverflowError:
        return math.inf


@lru_cache(maxsize=4096)
def _epsilon_pld(events: Events, delta: float, discretisation: float) -> float:
    if not events:
        return 0.0
    if _without_guarantee(events):
        return math.inf
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, discretisation)
    precision = sum(e.count / e.noise_multiplier**2 for e in events if e.sampling_rate == 1.0)
    if precision:
        accountant.compose(GaussianDpEvent(1.0 / math.sqrt(precision)))
    for event in events:
        if event.sampling_rate < 1.0:
            gaussian = GaussianDpEvent(event.noise_multiplier)
            accountant.compose(PoissonSampledDpEvent(event.sampling_rate, gaussian), event.count)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def _epsilon_prv(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if _without_guarantee(events):
        return math.inf
    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, e.count) for e in events]
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        # At sampling rate 1 Opacus takes a logarithm of 0, whose branch it then leaves unused; and
        # it sizes its domain by RDP, where a missing larger order only makes the domain larger.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def _epsilon_rdp(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if _without_guarantee(events):
        return math.inf
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        gaussian = GaussianDpEvent(event.noise_multiplier)
        accountant.compose(PoissonSampledDpEvent(event.sampling_rate, gaussian), event.count)
    return float(accountant.get_epsilon(delta))

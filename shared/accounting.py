"""Epsilon of a composition of Poisson-sampled Gaussian mechanisms, by three accountants.

PLD (dp-accounting; Doroshenko et al. 2022, arXiv 2207.04380) is the figure that binds. PRV (Opacus;
Gopi et al. 2021, arXiv 2106.02848) is independent code and checks it. RDP (Mironov 2017) is a
ceiling. Adjacency everywhere: add or remove one user. Nothing here imports torch.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from absl import logging
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.gaussian_mechanism import get_sigma_gaussian
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    identity,
)
from dp_accounting.rdp import RdpAccountant

from shared.errors import PrivacyError
from shared.prv import EPSILON_ERROR, Bound, epsilon_bound, largest_loss

DISCRETISATION = 1e-4
COARSE_DISCRETISATION = 1e-3
# Ledgers with more sampled releases or more settings than that are discretised coarsely: a
# release's error is a smaller part of the whole, and the time grows with the settings.
MANY_RELEASES = 1000
MANY_SETTINGS = 10
# Cells for the losses of one release, whose table would otherwise fill the memory.
LARGEST_TABLE = 250_000
# Ten rounds a day for 270 years; the accountants' grids grow with the root of it.
LARGEST_COUNT = 10**6
SMALLEST_DELTA = 1e-12
# PRV's own error bound puts it this far above PLD at most (measured over 454 settings).
PRV_ABOVE_PLD = 0.03
# Epsilon is some 80 there: no guarantee, and a hostile plan beyond it would fill the memory of the
# accountants, whose tables grow with epsilon.
LARGEST_MU = 10.0
# Beyond these a hostile plan's figures leave what floats hold; what they cost is not measurable.
GREATEST_NOISE = 1e9
LEAST_RATE = 1e-9


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
    """Equal events as one, in a canonical order: composition does not depend on it, cost does.

    Figures beyond the bounds of floats are taken for those bounds, which cost more.
    """
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        rate = max(event.sampling_rate, LEAST_RATE)
        counts[rate, min(event.noise_multiplier, GREATEST_NOISE)] += event.count
    return tuple(sorted(Event(q, sigma, n) for (q, sigma), n in counts.items() if n))


def contained(part: Iterable[Event], whole: Iterable[Event]) -> bool:
    """Whether every event of ``part`` is in ``whole`` at least as often: then it costs no more."""
    limits = {(e.sampling_rate, e.noise_multiplier): e.count for e in merged(whole)}
    return all(
        e.count <= limits.get((e.sampling_rate, e.noise_multiplier), 0) for e in merged(part)
    )


def epsilon_pld(
    events: Iterable[Event], delta: float, discretisation: float | None = None
) -> float:
    """Epsilon at ``delta`` by privacy loss distributions; errs upward. Infinite without noise.

    Args:
        events: composed.
        delta: at which.
        discretisation: cell of the losses' grid; by default ``discretisation_of(events)``.
    """
    composed = merged(events)
    return _epsilon_pld(composed, _checked(delta), discretisation or discretisation_of(composed))


def epsilon_coarse(events: Iterable[Event], delta: float) -> float:
    """PLD's epsilon on a coarse grid, for searches: at most 0.1% or so above the fine one."""
    composed = merged(events)
    return epsilon_pld(composed, delta, discretisation_of(composed, COARSE_DISCRETISATION))


def epsilon_prv(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` by Opacus's privacy random variables: an upper bound.

    Its error is 0.01, more for ledgers whose grid would pass ``shared.prv.LARGEST_GRID``.
    """
    return _epsilon_prv(merged(events), _checked(delta)).epsilon


def epsilon_rdp(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` by Rényi differential privacy: a ceiling, never the claim."""
    return _epsilon_rdp(merged(events), _checked(delta))


def epsilon_checked(events: Iterable[Event], delta: float) -> float:
    """PLD's epsilon, confirmed by PRV.

    PLD may lie ``PRV_ABOVE_PLD`` below PRV where PRV's error is 0.01, and proportionally more
    where it is larger: 10,000 rounds keep to 0.03 up to an epsilon of about 3, and at an epsilon of
    10 the tolerance is 0.06. A PLD above PRV is recomputed on a grid ten times finer, which can
    only lower it, before it is refused.

    Raises:
        PrivacyError: if PLD lies above PRV or further below it than that; or if there are more
            sampled releases than ``LARGEST_COUNT``.
    """
    composed = merged(events)
    pld = epsilon_pld(composed, delta)
    if math.isinf(pld) or not composed:
        return pld
    prv, error = _epsilon_prv(composed, delta)
    if pld > prv + 1e-6:
        pld = epsilon_pld(composed, delta, discretisation_of(composed) / 10)
    if not prv - PRV_ABOVE_PLD * error / EPSILON_ERROR <= pld <= prv + 1e-6:
        raise PrivacyError(
            f"the accountants disagree: PLD says epsilon {pld:.4f}, PRV {prv:.4f} for {composed} "
            f"at delta {delta:g}; nothing is released on a figure that is not certain"
        )
    return pld


def discretisation_of(events: Events, usual: float | None = None) -> float:
    """Cell of PLD's grid for these events: ``usual`` or, where that is too coarse, less.

    The usual cell is ``DISCRETISATION``; ``COARSE_DISCRETISATION`` where there are more than
    ``MANY_RELEASES`` or ``MANY_SETTINGS``. Each of n sampled releases is spread over two
    neighbouring cells of width h, which adds a variance of h^2 / 6 on average to a privacy loss
    whose variance is about mu^2. With h at most mu / (10 sqrt(n)) the deviation grows by 0.1% at
    most, however small mu is.
    """
    sampled = [event for event in events if event.sampling_rate < 1.0]
    count = sum(event.count for event in sampled)
    if usual is None:
        many = count > MANY_RELEASES or len(sampled) > MANY_SETTINGS
        usual = COARSE_DISCRETISATION if many else DISCRETISATION
    if not sampled or without_guarantee(events):
        return usual
    mu = math.sqrt(math.fsum(mu_squared(event) for event in events))
    widest = max(largest_loss(e.sampling_rate, e.noise_multiplier) for e in sampled)
    return max(min(usual, 0.1 * mu / math.sqrt(count)), widest / LARGEST_TABLE)


@lru_cache(maxsize=16)
def privacy_losses(events: Events, discretisation: float) -> PrivacyLossDistribution:
    """Distributions of the privacy loss of the composition, for a user added and one removed.

    Args:
        events: merged, with a guarantee.
        discretisation: cell of the grid; every cell errs upward.

    Raises:
        PrivacyError: if there are more sampled releases than ``LARGEST_COUNT``.
    """
    count = sum(event.count for event in events if event.sampling_rate < 1.0)
    if count > LARGEST_COUNT:
        raise PrivacyError(
            f"{count} sampled releases: the accountants are certain up to {LARGEST_COUNT}; plan "
            "fewer rounds"
        )
    composed = identity(discretisation)
    for event in _gaussians_as_one(events):
        one = from_gaussian_mechanism(
            event.noise_multiplier,
            value_discretization_interval=discretisation,
            sampling_prob=event.sampling_rate,
        )
        composed = composed.compose(one.self_compose(event.count))
    return composed


def without_guarantee(events: Events) -> bool:
    """No noise at all, or so little that epsilon says nothing; both count as infinite."""
    if any(event.noise_multiplier <= 0.0 for event in events):
        return True
    return math.fsum(mu_squared(event) for event in events) > LARGEST_MU**2


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
        # The closed form of Balle and Wang (2018) gives the deviation of the one Gaussian.
        needed = float(get_sigma_gaussian(epsilon, delta)) ** -2
        scale = least_scale(lambda s: _precision(build(s)) <= needed, tolerance / 1000)
    else:
        scale = least_scale(lambda s: epsilon_coarse(build(s), delta) <= epsilon, tolerance)
    while epsilon_pld(build(scale), delta) > epsilon:
        scale *= 1.0 + tolerance / 10
    return scale


def least_scale(enough: Callable[[float], bool], tolerance: float) -> float:
    """Least scale that is ``enough``, to a relative ``tolerance``; every larger one is, too.

    Raises:
        PrivacyError: if no scale up to 1e6 is.
    """
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


def mu_squared(event: Event) -> float:
    """Of the Gaussian that an event tends to (Dong, Roth and Su 2022, corollary 5.4).

    Shares of a budget are counted in it. Infinite without noise.
    """
    if event.noise_multiplier <= 0.0:
        return math.inf
    try:
        precision = event.noise_multiplier**-2
        if event.sampling_rate == 1.0:
            return event.count * precision
        return event.count * event.sampling_rate**2 * math.expm1(precision)
    except OverflowError:
        return math.inf


def _precision(events: Events) -> float:
    return math.fsum(e.count / e.noise_multiplier**2 for e in events)


def _gaussians_as_one(events: Events) -> Events:
    """The same composition: Gaussian releases over all users compose to one Gaussian exactly."""
    precision = _precision(tuple(e for e in events if e.sampling_rate == 1.0))
    sampled = tuple(e for e in events if e.sampling_rate < 1.0)
    return (Event(1.0, precision**-0.5), *sampled) if precision else sampled


@lru_cache(maxsize=4096)
def _epsilon_pld(events: Events, delta: float, discretisation: float) -> float:
    if not events:
        return 0.0
    if without_guarantee(events):
        return math.inf
    return float(privacy_losses(events, discretisation).get_epsilon_for_delta(delta))


@lru_cache(maxsize=1024)
def _epsilon_prv(events: Events, delta: float) -> Bound:
    if not events:
        return Bound(0.0, 0.0)
    if without_guarantee(events):
        return Bound(math.inf, 0.0)
    releases = [(e.sampling_rate, e.noise_multiplier, e.count) for e in _gaussians_as_one(events)]
    return epsilon_bound(releases, delta)


@lru_cache(maxsize=1024)
def _epsilon_rdp(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if without_guarantee(events):
        return math.inf
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        # It warns of every order that it leaves out; leaving one out only raises the ceiling.
        for event in events:
            gaussian = GaussianDpEvent(event.noise_multiplier)
            accountant.compose(PoissonSampledDpEvent(event.sampling_rate, gaussian), event.count)
    finally:
        logging.set_verbosity(verbosity)
    return float(accountant.get_epsilon(delta))

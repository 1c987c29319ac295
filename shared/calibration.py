"""What fits into a budget: the noise, the number of steps or the sampling rate, one from the rest.

Every answer errs towards less spending and is confirmed by both accountants. ``before`` is what the
ledger holds already.
"""

import math

from shared.accounting import (
    LARGEST_COUNT,
    Event,
    Events,
    calibrate,
    epsilon_checked,
    epsilon_coarse,
    epsilon_pld,
    least_scale,
)
from shared.errors import PrivacyError

SMALLEST_RATE = 1e-6
TOLERANCE = 1e-4


def sigma_for(
    epsilon: float, delta: float, sampling_rate: float, steps: int, before: Events = ()
) -> float:
    """Least noise multiplier, to a relative 1e-3, with which ``steps`` more releases fit.

    Args:
        epsilon: budget of everything, ``before`` included.
        delta: at which.
        sampling_rate: of a step, in (0, 1].
        steps: how many.
        before: what is spent already.

    Raises:
        PrivacyError: if no noise multiplier up to 1e6 is enough.
    """
    _refuse_senseless(epsilon, sampling_rate=sampling_rate, steps=steps)
    _refuse_spent(epsilon, delta, before)

    def build(sigma: float) -> Events:
        return (*before, Event(sampling_rate, sigma, steps))

    sigma = calibrate(build, epsilon, delta, TOLERANCE)
    _confirm(build(sigma), epsilon, delta)
    return sigma


def steps_for(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    noise_multiplier: float,
    before: Events = (),
) -> int:
    """Largest number of further steps that fit; at most ``shared.accounting.LARGEST_COUNT``.

    Args:
        epsilon: budget of everything, ``before`` included.
        delta: at which.
        sampling_rate: of a step, in (0, 1].
        noise_multiplier: of a step, above 0.
        before: what is spent already.

    Raises:
        PrivacyError: if not one step fits.
    """
    _refuse_senseless(epsilon, sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    _refuse_spent(epsilon, delta, before)
    spent = sum(event.count for event in before if event.sampling_rate < 1.0)
    most = LARGEST_COUNT - (spent if sampling_rate < 1.0 else 0)

    def build(steps: int) -> Events:
        return (*before, Event(sampling_rate, noise_multiplier, steps))

    low, high = 0, min(1, most)
    while low < high and epsilon_coarse(build(high), delta) <= epsilon:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        fits = epsilon_coarse(build(middle), delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    while low < most and epsilon_pld(build(low + 1), delta) <= epsilon:
        low += 1
    while low and epsilon_pld(build(low), delta) > epsilon:
        low -= 1
    if not low:
        raise PrivacyError(
            f"not one step with sampling rate {sampling_rate:g} and noise multiplier "
            f"{noise_multiplier:g} fits: it would bring epsilon to "
            f"{epsilon_pld(build(1), delta):.4g} of {epsilon:g}; sample less or add more noise"
        )
    _confirm(build(low), epsilon, delta)
    return low


def rate_for(
    epsilon: float, delta: float, noise_multiplier: float, steps: int, before: Events = ()
) -> float:
    """Largest sampling rate, to a relative 1e-3, at which ``steps`` more releases fit.

    Args:
        epsilon: budget of everything, ``before`` included.
        delta: at which.
        noise_multiplier: of a step, above 0.
        steps: how many.
        before: what is spent already.

    Raises:
        PrivacyError: if not even ``SMALLEST_RATE`` fits.
    """
    _refuse_senseless(epsilon, noise_multiplier=noise_multiplier, steps=steps)
    _refuse_spent(epsilon, delta, before)

    def build(rate: float) -> Events:
        return (*before, Event(rate, noise_multiplier, steps))

    if epsilon_coarse(build(1.0), delta) <= epsilon:
        rate = 1.0
    elif epsilon_coarse(build(SMALLEST_RATE), delta) > epsilon:
        raise PrivacyError(
            f"no sampling rate down to {SMALLEST_RATE:g} lets {steps} steps with noise multiplier "
            f"{noise_multiplier:g} fit into epsilon {epsilon:g}; add more noise or take fewer steps"
        )
    else:
        rate = 1.0 / least_scale(
            lambda inverse: epsilon_coarse(build(1.0 / inverse), delta) <= epsilon, TOLERANCE
        )
    while epsilon_pld(build(rate), delta) > epsilon:
        rate *= 1.0 - TOLERANCE / 10
    _confirm(build(rate), epsilon, delta)
    return rate


def _refuse_senseless(epsilon: float, **given: float) -> None:
    if not 0.0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon = {epsilon:g} is no budget; it must be above 0 and finite")
    if not 0.0 < given.get("sampling_rate", 1.0) <= 1.0:
        raise PrivacyError(
            f"sampling rate {given['sampling_rate']:g}: it must be above 0 and at most 1"
        )
    if not 0.0 < given.get("noise_multiplier", 1.0) < math.inf:
        raise PrivacyError(
            f"noise multiplier {given['noise_multiplier']:g}: it must be above 0 and finite"
        )
    if given.get("steps", 1) < 1:
        raise PrivacyError(f"{given['steps']} steps: it must be 1 or more")


def _refuse_spent(epsilon: float, delta: float, before: Events) -> None:
    spent = epsilon_checked(before, delta)
    if spent >= epsilon:
        raise PrivacyError(
            f"epsilon {spent:.4g} at delta {delta:g} is spent already, of {epsilon:g}: nothing "
            "more fits; only a larger budget helps"
        )


def _confirm(events: Events, epsilon: float, delta: float) -> None:
    reached = epsilon_checked(events, delta)
    if reached > epsilon:
        raise PrivacyError(
            f"the calibration reached epsilon {reached:.6g}, above {epsilon:g}, for {events}: "
            "a fault of the calibration; nothing is planned on it"
        )

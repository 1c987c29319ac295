"""Epsilon against closed forms, published figures and an integral; and its order relations.

References: Balle and Wang 2018 (arXiv 1805.06530), theorem 8, for Gaussian releases; Mironov,
Talwar and Zhang 2019 (arXiv 1908.10530), section 3.3, for the Rényi divergence of sampled ones;
the published figures are named where they stand.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from shared.accounting import (
    COARSE_DISCRETISATION,
    PRV_ABOVE_PLD,
    Event,
    Events,
    calibrate,
    contained,
    epsilon_checked,
    epsilon_pld,
    epsilon_prv,
    epsilon_rdp,
    merged,
)
from shared.errors import PrivacyError

rates = st.one_of(st.just(1.0), st.floats(-3.0, 0.0).map(lambda power: float(10.0**power)))
sigmas = st.floats(0.8, 8.0)
deltas = st.sampled_from([1e-3, 1e-5, 1e-7])
few_events = st.lists(
    st.builds(Event, st.sampled_from([0.05, 0.5, 1.0]), st.floats(1.0, 6.0), st.integers(1, 20)),
    min_size=1,
    max_size=4,
)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of one Gaussian release with sensitivity ``mu`` deviations."""

    def excess(epsilon: float) -> float:
        inside = stats.norm.cdf(mu / 2 - epsilon / mu)
        outside = math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
        return float(inside - outside - delta)

    return float(optimize.brentq(excess, 0.0, mu**2 + 20.0 * mu, xtol=1e-10))


def sampled_delta(epsilon: float, q: float, sigma: float, user_is_in: bool) -> float:
    """Hockey-stick divergence of one sampled Gaussian release, for any real ``epsilon``.

    With the user the output is ``(1 - q) N(0, s^2) + q N(1, s^2)``, without ``N(0, s^2)``. Their
    ratio grows with the output, so that the worse outputs lie beyond one point.
    """
    ratio = math.exp(epsilon if user_is_in else -epsilon)
    if ratio <= 1.0 - q:
        return 1.0 - math.exp(epsilon) if user_is_in else 0.0
    point = sigma**2 * math.log((ratio - 1.0 + q) / q) + 0.5
    tail = stats.norm.sf if user_is_in else stats.norm.cdf
    without = tail(point / sigma)
    within = (1 - q) * without + q * tail((point - 1.0) / sigma)
    first, second = (within, without) if user_is_in else (without, within)
    return float(first - math.exp(epsilon) * second)


def twice_sampled_delta(epsilon: float, q: float, sigma: float, user_is_in: bool) -> float:
    """The same for two releases: the first one's privacy loss shifts the second one's epsilon."""

    def integrand(x: float) -> float:
        loss = math.log1p(q * math.expm1((2 * x - 1) / (2 * sigma**2)))
        without = stats.norm.pdf(x, 0.0, sigma)
        if not user_is_in:
            return float(without * sampled_delta(epsilon + loss, q, sigma, False))
        within = (1 - q) * without + q * stats.norm.pdf(x, 1.0, sigma)
        return float(within * sampled_delta(epsilon - loss, q, sigma, True))

    edge = 12.0 * sigma
    value, _ = integrate.quad(integrand, -edge, edge + 1.0, limit=400, epsabs=1e-12, epsrel=1e-9)
    return float(value)


def classic_moments_epsilon(q: float, sigma: float, steps: int, delta: float) -> float:
    """Moments accountant as of 2016 to 2019: whole orders, conversion with log(1 / delta)."""
    best = math.inf
    for order in range(2, 65):
        k = np.arange(order + 1)
        terms = (
            special.gammaln(order + 1)
            - special.gammaln(k + 1)
            - special.gammaln(order - k + 1)
            + (order - k) * math.log1p(-q)
            + k * math.log(q)
            + (k * k - k) / (2 * sigma**2)
        )
        cost = steps * float(special.logsumexp(terms)) - math.log(delta)
        best = min(best, cost / (order - 1))
    return best


@pytest.mark.parametrize("delta", [1e-3, 1e-6])
@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_a_gaussian_release_costs_its_closed_form(mu: float, delta: float) -> None:
    epsilon = epsilon_pld([Event(1.0, 1.0 / mu)], delta)
    assert epsilon == pytest.approx(gaussian_epsilon(mu, delta), abs=1e-3)
    assert epsilon >= gaussian_epsilon(mu, delta) - 1e-9


def test_gaussian_releases_compose_to_one_gaussian() -> None:
    events = [Event(1.0, 2.0, 3), Event(1.0, 5.0, 10), Event(1.0, 1.0)]
    mu = math.sqrt(3 / 4 + 10 / 25 + 1)
    assert epsilon_pld(events, 1e-5) == pytest.approx(gaussian_epsilon(mu, 1e-5), abs=1e-3)


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.1), (0.1, 0.8), (0.5, 2.0)])
def test_one_sampled_release_costs_its_hockey_stick_divergence(q: float, sigma: float) -> None:
    def worse_way(epsilon: float) -> float:
        return max(sampled_delta(epsilon, q, sigma, way) for way in (True, False)) - 1e-5

    exact = float(optimize.brentq(worse_way, 0.0, 40.0, xtol=1e-10))
    assert epsilon_pld([Event(q, sigma)], 1e-5) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(("q", "sigma"), [(0.05, 1.1), (0.5, 2.0)])
def test_two_sampled_releases_cost_their_integral(q: float, sigma: float) -> None:
    epsilon = epsilon_pld([Event(q, sigma, 2)], 1e-5)
    exact = max(twice_sampled_delta(epsilon, q, sigma, way) for way in (True, False))
    below = max(twice_sampled_delta(epsilon - 2e-3, q, sigma, way) for way in (True, False))
    assert exact <= 1e-5 * (1 + 1e-6)
    assert below > 1e-5


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "published"),
    [
        # Abadi et al. 2016, section 3.2: L = 0.01 N, sigma = 4, E = 100 epochs.
        pytest.param(0.01, 4.0, 10_000, 1.26, id="abadi-2016"),
        # TensorFlow Privacy, tutorials/README.md, the three MNIST settings (256 of 60,000).
        pytest.param(256 / 60_000, 1.3, 15 * 234, 1.19, id="tensorflow-privacy-15-epochs"),
        pytest.param(256 / 60_000, 1.1, 60 * 234, 3.01, id="tensorflow-privacy-60-epochs"),
    ],
)
def test_published_figures_bound_ours_closely(
    q: float, sigma: float, steps: int, published: float
) -> None:
    event = [Event(q, sigma, steps)]
    assert round(classic_moments_epsilon(q, sigma, steps, 1e-5), 2) == published
    # Newer conversions from Rényi divergence gain up to a fifth on those, PLD somewhat more.
    assert 0.75 * published < epsilon_rdp(event, 1e-5) < published
    assert 0.70 * published < epsilon_pld(event, 1e-5) < epsilon_rdp(event, 1e-5)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(q=rates, sigma=sigmas, steps=st.integers(1, 100), delta=deltas)
def test_renyi_is_a_ceiling_and_prv_lies_close_above(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    assume(q < 1.0 or steps / sigma**2 < 20.0)
    event = [Event(q, sigma, steps)]
    pld = epsilon_pld(event, delta)
    assert pld <= epsilon_rdp(event, delta)
    assert epsilon_prv(event, delta) - PRV_ABOVE_PLD <= pld <= epsilon_prv(event, delta) + 1e-6


@pytest.mark.parametrize("error", [0.005, -0.04])
def test_accountants_that_disagree_release_nothing(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    events = (Event(1.0, 2.0),)
    prv = epsilon_prv(events, 1e-5)
    monkeypatch.setattr("shared.accounting._epsilon_pld", lambda *_: prv + error)
    with pytest.raises(PrivacyError, match="accountants disagree"):
        epsilon_checked(events, 1e-5)


@settings(max_examples=15, deadline=None)
@given(events=few_events, random=st.randoms(use_true_random=False))
def test_splitting_and_order_do_not_change_epsilon(
    events: list[Event], random: "np.random.Generator"
) -> None:
    single = [Event(e.sampling_rate, e.noise_multiplier) for e in events for _ in range(e.count)]
    random.shuffle(single)
    assert merged(single) == merged(events)
    assert epsilon_pld(single, 1e-5, COARSE_DISCRETISATION) == epsilon_pld(
        events, 1e-5, COARSE_DISCRETISATION
    )


@settings(max_examples=15, deadline=None)
@given(events=few_events, data=st.data())
def test_a_contained_composition_costs_no_more(events: list[Event], data: st.DataObject) -> None:
    part = [
        Event(e.sampling_rate, e.noise_multiplier, data.draw(st.integers(0, e.count)))
        for e in events
    ]
    assert contained(part, events)
    # The two are discretised each on its own: half a cell of the grid.
    assert epsilon_pld(part, 1e-5, COARSE_DISCRETISATION) <= (
        epsilon_pld(events, 1e-5, COARSE_DISCRETISATION) + COARSE_DISCRETISATION / 2
    )


@pytest.mark.parametrize(
    "part",
    [
        [Event(1.0, 2.0, 4)],
        [Event(1.0, 1.9)],
        [Event(0.9, 2.0)],
        [Event(1.0, 2.0), Event(0.5, 1.0)],
    ],
)
def test_more_or_other_events_are_not_contained(part: Sequence[Event]) -> None:
    assert not contained(part, [Event(1.0, 2.0, 3)])


def test_a_release_without_noise_has_no_finite_epsilon() -> None:
    events = [Event(1.0, 5.0), Event(0.1, 0.0)]
    assert math.isinf(epsilon_pld(events, 1e-5))
    assert math.isinf(epsilon_prv(events, 1e-5))
    assert math.isinf(epsilon_rdp(events, 1e-5))


def test_nothing_released_costs_nothing() -> None:
    assert epsilon_checked([], 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1e-13, 1.0, 2.0, math.nan, math.inf])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    for accountant in (epsilon_pld, epsilon_prv, epsilon_rdp, epsilon_checked):
        with pytest.raises(PrivacyError, match="delta"):
            accountant([Event(1.0, 1.0)], delta)
    with pytest.raises(PrivacyError, match="delta"):
        calibrate(lambda scale: (Event(1.0, scale),), 1.0, delta)


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
@pytest.mark.parametrize("q", [1.0, 0.2])
def test_calibration_reaches_its_target_and_does_not_pass_it(q: float, epsilon: float) -> None:
    def build(scale: float) -> Events:
        return (Event(q, scale, 5), Event(1.0, 4.0 * scale))

    scale = calibrate(build, epsilon, 1e-5)
    assert 0.99 * epsilon < epsilon_pld(build(scale), 1e-5) <= epsilon


def test_an_unreachable_target_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no noise scale"):
        calibrate(lambda scale: (Event(0.5, min(scale, 1.0), 3),), 0.1, 1e-5)

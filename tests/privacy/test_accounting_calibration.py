"""Noise, steps and sampling rate that fit into a budget: certain, and no smaller than need be."""

import math

import pytest
from scipy import stats

from shared.accounting import LARGEST_COUNT, Event, Events, epsilon_checked
from shared.calibration import rate_for, sigma_for, steps_for
from shared.errors import PrivacyError

DELTA = 1e-5
SPENT = (Event(1.0, 10.0, 4), Event(0.1, 3.0, 20))


@pytest.mark.parametrize(
    ("epsilon", "sigma"),
    [
        (1.0, 2.93),
        (2.0, 1.76),
        pytest.param(4.0, 1.14, marks=pytest.mark.slow),
        pytest.param(8.0, 0.80, marks=pytest.mark.slow),
    ],
)
def test_noise_of_a_hundred_steps_is_what_bisecting_dp_accounting_gave(
    epsilon: float, sigma: float
) -> None:
    # dp-accounting 0.6.0 bisected at a cell of 1e-4; delta is that of MovieLens-100K's 943 users.
    assert round(sigma_for(epsilon, 943**-1.1, 0.1, 100), 2) == sigma


@pytest.mark.parametrize("before", [(), (Event(1.0, 10.0, 4),)])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_noise_over_all_users_is_that_of_the_closed_form(mu: float, before: Events) -> None:
    # Balle and Wang 2018, theorem 8: delta at epsilon 1 of one Gaussian.
    outside = math.e * stats.norm.cdf(-mu / 2 - 1 / mu)
    delta = float(stats.norm.cdf(mu / 2 - 1 / mu) - outside)
    left = mu**2 - sum(event.count / event.noise_multiplier**2 for event in before)
    sigma = sigma_for(1.0, delta, 1.0, 25, before)
    assert sigma == pytest.approx((25 / left) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("q", "steps", "before"), [(0.05, 200, ()), (0.3, 5, SPENT), (1.0, 30, ())]
)
def test_noise_keeps_to_the_budget_and_a_little_less_does_not(
    q: float, steps: int, before: Events
) -> None:
    sigma = sigma_for(2.0, DELTA, q, steps, before)
    assert epsilon_checked((*before, Event(q, sigma, steps)), DELTA) <= 2.0
    assert epsilon_checked((*before, Event(q, 0.998 * sigma, steps)), DELTA) > 2.0


@pytest.mark.parametrize(
    ("q", "sigma", "before"), [(0.05, 1.5, ()), (0.3, 4.0, SPENT), (1.0, 20.0, ())]
)
def test_steps_fit_and_one_more_does_not(q: float, sigma: float, before: Events) -> None:
    steps = steps_for(2.0, DELTA, q, sigma, before)
    assert epsilon_checked((*before, Event(q, sigma, steps)), DELTA) <= 2.0
    assert epsilon_checked((*before, Event(q, sigma, steps + 1)), DELTA) > 2.0


@pytest.mark.parametrize(("sigma", "steps", "before"), [(2.5, 100, ()), (4.0, 50, SPENT)])
def test_a_rate_fits_and_a_little_more_does_not(sigma: float, steps: int, before: Events) -> None:
    rate = rate_for(2.0, DELTA, sigma, steps, before)
    assert epsilon_checked((*before, Event(rate, sigma, steps)), DELTA) <= 2.0
    assert epsilon_checked((*before, Event(1.002 * rate, sigma, steps)), DELTA) > 2.0


def test_all_users_at_once_where_the_noise_allows_it() -> None:
    assert rate_for(2.0, DELTA, 100.0, 100) == 1.0


@pytest.mark.slow
def test_steps_end_where_the_accountants_do() -> None:
    assert steps_for(2.0, DELTA, 0.001, 50.0) == LARGEST_COUNT


def test_nothing_fits_when_the_budget_is_spent() -> None:
    spent = (Event(1.0, 1.0),)
    for answer in (
        lambda: sigma_for(1.0, DELTA, 0.1, 10, spent),
        lambda: steps_for(1.0, DELTA, 0.1, 5.0, spent),
        lambda: rate_for(1.0, DELTA, 5.0, 10, spent),
    ):
        with pytest.raises(PrivacyError, match="is spent already"):
            answer()


def test_a_step_that_does_not_fit_says_what_it_would_cost() -> None:
    with pytest.raises(PrivacyError, match=r"not one step .* 9\.997 of 2"):
        steps_for(2.0, DELTA, 1.0, 0.5)


def test_noise_too_weak_for_any_rate_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no sampling rate"):
        rate_for(0.01, DELTA, 0.2, 10_000)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epsilon": 0.0}, "epsilon = 0"),
        ({"epsilon": float("nan")}, "epsilon = nan"),
        ({"sampling_rate": 0.0}, "sampling rate 0"),
        ({"sampling_rate": 1.5}, "sampling rate 1.5"),
        ({"steps": 0}, "0 steps"),
        ({"delta": 0.0}, "delta"),
    ],
)
def test_senseless_figures_are_refused(given: dict[str, float], named: str) -> None:
    usual = {"epsilon": 1.0, "delta": DELTA, "sampling_rate": 0.1, "steps": 10}
    with pytest.raises(PrivacyError, match=named):
        sigma_for(**(usual | given))

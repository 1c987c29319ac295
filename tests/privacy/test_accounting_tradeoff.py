"""What an attacker can reach: the exact curve of a Gaussian, and real attacks below the bound."""

import pytest
from scipy import stats

from shared.accounting import Event
from shared.errors import PrivacyError
from shared.tradeoff import best_true_positive_rate

RATES = [0.0, 1e-5, 1e-3, 1e-2, 0.2, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mu", [0.2, 1.0, 4.0])
def test_against_gaussian_releases_it_is_the_exact_curve(mu: float, rate: float) -> None:
    # Dong, Roth and Su 2022, equation 6: the best test between N(0, 1) and N(mu, 1).
    exact = stats.norm.cdf(stats.norm.ppf(rate) + mu)
    events = [Event(1.0, 2.0 / mu, 3), Event(1.0, 2.0 / mu)]
    assert best_true_positive_rate(events, rate) == pytest.approx(exact, abs=1e-4)
    assert best_true_positive_rate(events, rate) >= exact - 1e-12


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize(("q", "sigma"), [(0.1, 0.8), (0.5, 2.0)])
def test_against_one_sampled_release_it_is_the_likelihood_ratio_test(
    q: float, sigma: float, rate: float
) -> None:
    # The ratio grows with the output, so that the best test is a threshold (Neyman and Pearson).
    threshold = stats.norm.isf(rate, 0.0, sigma)
    reached = (1 - q) * rate + q * stats.norm.sf(threshold, 1.0, sigma)
    bound = best_true_positive_rate([Event(q, sigma)], rate)
    assert reached - 1e-9 <= bound <= reached + 1e-4


@pytest.mark.parametrize("rate", [0.9, 0.99, 0.999])
@pytest.mark.parametrize(("q", "sigma"), [(0.1, 0.8), (0.5, 2.0)])
def test_looking_for_absence_reaches_no_more_than_the_bound(
    q: float, sigma: float, rate: float
) -> None:
    # With the hypotheses exchanged, low outputs speak for a user who is absent.
    threshold = stats.norm.ppf(rate, 0.0, sigma)
    false_alarms = (1 - q) * rate + q * stats.norm.cdf(threshold, 1.0, sigma)
    assert best_true_positive_rate([Event(q, sigma)], false_alarms) >= rate - 1e-9


def test_without_releases_only_chance_remains() -> None:
    assert best_true_positive_rate([], 0.01) == 0.01


def test_without_noise_everyone_is_found() -> None:
    assert best_true_positive_rate([Event(0.5, 0.0)], 0.001) == 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError, match="between 0 and 1"):
        best_true_positive_rate([Event(1.0, 1.0)], rate)

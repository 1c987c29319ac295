"""Epsilon of whole ledgers: fast, certain at every size, and never lowered by what is added."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared import accounting
from shared.accounting import (
    COARSE_DISCRETISATION,
    LARGEST_COUNT,
    Event,
    contained,
    discretisation_of,
    epsilon_checked,
    epsilon_coarse,
    epsilon_pld,
    epsilon_prv,
)
from shared.errors import PrivacyError
from simulations.bench.accounting import made_up_ledger

events_of_any_kind = st.builds(
    Event, st.sampled_from([0.02, 0.3, 1.0]), st.floats(2.0, 30.0), st.integers(1, 20)
)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Of one Gaussian release (Balle and Wang 2018, theorem 8)."""
    outside = math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    return float(stats.norm.cdf(mu / 2 - epsilon / mu) - outside)


def test_ten_thousand_rounds_of_fifty_settings_pass_both_accountants() -> None:
    assert 10.0 < epsilon_checked(made_up_ledger(10_000, 50, 2.0), 1e-5) < 10.2


@pytest.mark.parametrize(
    ("mu", "epsilon"), [(0.2, 0.5), (0.2, 0.9), (1.0, 2.0), (1.0, 5.0), (3.0, 8.0), (3.0, 18.0)]
)
def test_a_large_ledger_costs_what_the_central_limit_says(mu: float, epsilon: float) -> None:
    # Each setting has noise enough for its losses to be small, so that the limit is close.
    events = [Event(q, q / mu * (2_000 / 0.98) ** 0.5, 200) for q in np.linspace(0.1, 0.9, 10)]
    mu_of_all = mu * 0.98**0.5
    delta = gaussian_delta(mu_of_all, epsilon)
    assert 1e-7 < delta < 1e-1
    assert epsilon_checked(events, delta) == pytest.approx(epsilon, rel=0.05)


@pytest.mark.parametrize(
    ("event", "mu", "epsilon"),
    [
        pytest.param(Event(0.1, 1e4, 10**6), 0.01, 0.03, id="a-million-of-tiny-losses"),
        pytest.param(Event(0.5, 500.0, 10**5), 0.1**0.5, 1.0, id="many-of-small-losses"),
    ],
)
def test_the_grid_is_fine_enough_for_losses_below_its_usual_cell(
    event: Event, mu: float, epsilon: float
) -> None:
    found = epsilon_checked([event], gaussian_delta(mu, epsilon))
    assert 0.995 * epsilon <= found <= 1.005 * epsilon


def test_the_grid_is_not_finer_than_memory_allows() -> None:
    assert discretisation_of((Event(1e-15, 0.15, 1),)) > 1e-4


def test_more_sampled_releases_than_the_accountants_can_bear_are_refused() -> None:
    with pytest.raises(PrivacyError, match="plan fewer rounds"):
        epsilon_checked([Event(0.1, 1e4, LARGEST_COUNT), Event(0.2, 1e4)], 1e-5)


def test_releases_over_all_users_are_one_gaussian_however_many() -> None:
    epsilon = epsilon_checked([Event(1.0, 1e5, 10**10)], gaussian_delta(1.0, 4.0))
    assert epsilon == pytest.approx(4.0, abs=1e-3)


def test_a_pld_above_prv_is_recomputed_on_a_finer_grid_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = (Event(0.1, 100.0, 1000),)
    exact = epsilon_pld(events, 1e-5)
    usual = discretisation_of(events)
    monkeypatch.setattr(accounting, "discretisation_of", lambda _: 100 * usual)
    coarse = epsilon_pld(events, 1e-5)
    assert coarse > epsilon_prv(events, 1e-5)
    assert exact < epsilon_checked(events, 1e-5) < (exact + coarse) / 2


def test_a_delta_that_is_enough_by_itself_costs_no_epsilon() -> None:
    assert epsilon_checked([Event(1.0, 5.0)], 0.5) == 0.0


def test_strong_losses_over_all_users_are_certain() -> None:
    # The likelihood ratio of the lowest output of this one underflows.
    epsilon = epsilon_checked([Event(1.0, 0.8125, 7)], gaussian_delta(7**0.5 / 0.8125, 10.0))
    assert epsilon == pytest.approx(10.0, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(events=st.lists(events_of_any_kind, max_size=4), added=events_of_any_kind)
def test_an_event_added_never_lowers_epsilon(events: list[Event], added: Event) -> None:
    assert contained(events, [*events, added])
    # Each is discretised on its own grid: within 0.1% and a cell of it.
    before, after = (epsilon_coarse(e, 1e-5) for e in (events, [*events, added]))
    assert before <= 1.001 * after + COARSE_DISCRETISATION


@settings(max_examples=10, deadline=None)
@given(events=st.lists(events_of_any_kind, min_size=1, max_size=4))
def test_both_accountants_ignore_order(events: list[Event]) -> None:
    for accountant in (epsilon_coarse, epsilon_prv):
        assert accountant(events, 1e-5) == accountant(events[::-1], 1e-5)

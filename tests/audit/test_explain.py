"""What an epsilon means: bounds that a real mechanism reaches, and that no attack passes."""

import itertools
import math
from io import StringIO
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import norm
from typer.testing import CliRunner

from audit.explain import (
    Explanation,
    explain_events,
    explain_ledger,
    explain_pair,
    print_explanation,
)
from audit.views_cli import explain_command
from shared.accounting import Event
from shared.errors import PrivacyError
from shared.spending import read_contents

PAIRS = [(0.0, 0.0), (0.5, 0.0), (1.0, 1e-5), (3.0, 0.01), (8.0, 5e-4)]


def _dominating_mechanism(epsilon: float, delta: float) -> tuple[list[float], list[float]]:
    """Outcomes for a person absent and present (Kairouz, Oh and Viswanath 2015, theorem 3.1).

    Every (epsilon, delta) mechanism can be made from it, and it is one itself.
    """
    truth = (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    lie = (1 - delta) / (1 + math.exp(epsilon))
    return [delta, truth, lie, 0.0], [0.0, lie, truth, delta]


def _best_test(absent: list[float], present: list[float], rate: float) -> float:
    """True-positive rate of the best randomised test at a false-positive rate (Neyman-Pearson)."""
    order = sorted(range(len(absent)), key=lambda o: -present[o] / (absent[o] or 1e-300))
    found, left = 0.0, rate
    for outcome in order:
        share = min(1.0, left / absent[outcome]) if absent[outcome] else 1.0
        found += share * present[outcome]
        left -= share * absent[outcome]
    return found


def _shown(explanation: Explanation) -> str:
    console = Console(width=160, record=True, file=StringIO())
    print_explanation(console, explanation)
    return " ".join(console.export_text().replace("\N{NBSP}", " ").split())


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.3, 0.9, 1.0])
def test_the_bound_of_a_pair_is_reached_by_the_mechanism_that_dominates(
    epsilon: float, delta: float, rate: float
) -> None:
    reached = _best_test(*_dominating_mechanism(epsilon, delta), rate)
    assert explain_pair(epsilon, delta).success(rate) == pytest.approx(reached, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
def test_the_best_guess_is_that_of_the_mechanism_that_dominates(
    epsilon: float, delta: float
) -> None:
    absent, present = _dominating_mechanism(epsilon, delta)
    right = sum(map(max, zip(absent, present, strict=True))) / 2
    assert explain_pair(epsilon, delta).right_guess == pytest.approx(right, abs=1e-12)


@given(
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
    st.floats(0.0, 1.0),
)
def test_no_attack_on_randomised_response_passes_the_bound(
    one: float, other: float, rate: float
) -> None:
    absent, present = [one, 1 - one], [other, 1 - other]
    ratios = [a / b for a, b in zip(absent + present, present + absent, strict=True)]
    epsilon = math.log(max(ratios))
    assert _best_test(absent, present, rate) <= explain_pair(epsilon, 0.0).success(rate) + 1e-9


@pytest.mark.parametrize("sigma", [0.8, 2.0, 10.0])
def test_releases_over_all_users_have_the_exact_gaussian_bounds(sigma: float) -> None:
    # Trade-off of a Gaussian with mu = sqrt(4) / sigma (Dong, Roth and Su 2022, equation 6).
    mu = 2 / sigma
    made = explain_events((Event(1.0, sigma, 4),), 1e-5)
    for rate in (0.001, 0.01, 0.5):
        exact = float(norm.cdf(norm.ppf(rate) + mu))
        assert exact - 1e-9 <= made.success(rate) <= exact * 1.01
    assert made.right_guess == pytest.approx(norm.cdf(mu / 2), abs=1e-3)
    assert made.right_guess >= norm.cdf(mu / 2) - 1e-9


def test_what_is_believed_after_an_accusation_is_bayes_rule() -> None:
    made = explain_pair(math.log(9.0), 0.0)
    assert made.success(0.01) == pytest.approx(0.09)
    assert made.believed(0.5, 0.01) == pytest.approx(0.9)
    assert made.believed(0.01, 0.01) == pytest.approx(0.09 / (0.09 + 0.99))


def test_bounds_of_the_whole_ledger_are_tighter_than_those_of_its_epsilon_and_delta() -> None:
    whole = explain_events((Event(1.0, 1.0),), 1e-3)
    bare = explain_pair(whole.epsilon, whole.delta)
    assert all(whole.success(rate) <= bare.success(rate) for rate in (0.001, 0.01, 0.1))
    assert whole.right_guess < bare.right_guess


def test_the_curve_rises_from_no_accusation_to_all() -> None:
    wrong, found = zip(*explain_pair(1.0, 0.01).curve(), strict=True)
    assert (wrong[0], wrong[-1]) == (0.0, 1.0)
    assert found[0] == 0.01
    assert found[-1] == 1.0
    assert np.all(np.diff(found) >= 0)


def test_a_real_ledger_is_explained_with_all_its_releases(house: Any) -> None:
    made = explain_ledger(read_contents(house.stored()))
    plan = house.plan
    sigmas = [plan.popularity.noise_multiplier, plan.cooccurrence.noise_multiplier]
    sigmas += [plan.step.noise_multiplier] * 3
    mu = sum(sigma**-2 for sigma in sigmas) ** 0.5
    assert made.success(0.01) == pytest.approx(norm.cdf(norm.ppf(0.01) + mu), rel=0.01)
    assert made.delta == house.policy.budget.delta


def test_a_ledger_that_is_not_private_has_no_bound(house: Any) -> None:
    house.append("intent", "r/8/step", house.intent("step", 8, secret_randomness=False))
    made = explain_ledger(read_contents(house.stored()))
    assert (made.success(0.001), made.right_guess) == (1.0, 1.0)
    assert _shown(made).startswith("There is no guarantee")


def test_the_screen_shows_bounds_rounded_up_and_their_sources() -> None:
    text = _shown(explain_pair(1.0, 0.0))
    assert "What epsilon 1 at delta 0 allows any attacker" in text
    # e x 0.1% and e x 1%; e / (1 + e).
    assert "0.1% │ 0.28% │ 2.68% │ 73.11%" in text
    assert "1% │ 2.72% │ 2.68% │ 73.11%" in text
    assert "they are right at most 73.11% of the time" in text
    for source in ("Wasserman and Zhou 2010", "Kairouz, Oh and Viswanath 2015", "Dong, Roth and"):
        assert source in text


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (101.0, 0.0), (1.0, -0.1), (1.0, 1.0)],
)
def test_a_pair_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(PrivacyError):
        explain_pair(epsilon, delta)


@pytest.mark.parametrize("given_", list(itertools.product([True, False], repeat=3)))
def test_the_command_takes_a_ledger_or_a_pair(house: Any, given_: tuple[bool, ...]) -> None:
    app = typer.Typer()
    app.command()(explain_command)
    parts = ([str(house.folder)], ["--epsilon", "1"], ["--delta", "0.001"])
    options = [o for part, there in zip(parts, given_, strict=True) if there for o in part]
    done = CliRunner().invoke(app, options)
    if given_ in ((True, False, False), (False, True, True)):
        assert done.exit_code == 0
        assert "Whatever they do and compute" in " ".join(done.output.split())
    else:
        assert isinstance(done.exception, PrivacyError)

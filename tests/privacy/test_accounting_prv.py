"""The second accountant: Opacus's own figures, reached without torch, at any size of ledger."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from shared.accounting import Event, epsilon_prv
from shared.prv import EPSILON_ERROR, epsilon_bound, without_torch

# Sampling rate, noise multiplier, count.
LEDGERS = [
    [(0.1, 1.14, 100)],
    [(0.01, 0.8, 500), (0.05, 2.0, 30)],
    [(0.5, 6.0, 20), (0.2, 3.0, 7), (1.0, 10.0, 1)],
]

OPACUS = """
import warnings
warnings.simplefilter("ignore")
from opacus.accountants import PRVAccountant
accountant = PRVAccountant()
accountant.history = [(1.14, 0.1, 100)]
print(accountant.get_epsilon(1e-5))
"""
OURS = """
import sys
from shared.accounting import Event, epsilon_checked, epsilon_prv, epsilon_rdp
epsilon_checked([Event(0.1, 1.14, 100)], 1e-5), epsilon_rdp([Event(0.1, 1.14, 100)], 1e-5)
print(epsilon_prv([Event(0.1, 1.14, 100)], 1e-5))
"""


def printed(program: str) -> list[str]:
    """Lines that a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def opacus_epsilon(releases: list[tuple[float, float, int]], delta: float) -> float:
    """Opacus's whole accountant, its own domain, discretisation and composition."""
    accountant = without_torch("prv").PRVAccountant()
    accountant.history = [(sigma, q, count) for q, sigma, count in releases]
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))


def test_accounting_imports_no_torch() -> None:
    program = OURS + "print('torch' in sys.modules, 'opacus' in sys.modules)"
    assert printed(program)[1:] == ["False", "False"]


@pytest.mark.slow
def test_opacus_and_accounting_agree_in_either_order_of_import() -> None:
    opacus_first, ours_second = map(float, printed(OPACUS + OURS))
    ours_first, opacus_second = map(float, printed(OURS + OPACUS))
    # A Fourier transform's last digits depend on where its arrays lie in memory.
    assert opacus_first == pytest.approx(opacus_second, rel=1e-12)
    assert opacus_first == pytest.approx(opacus_epsilon([(0.1, 1.14, 100)], 1e-5), rel=1e-12)
    assert ours_first == ours_second == pytest.approx(opacus_first, abs=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-6])
@pytest.mark.parametrize("releases", LEDGERS)
def test_our_composition_gives_opacus_figure(
    releases: list[tuple[float, float, int]], delta: float
) -> None:
    bound = epsilon_bound(releases, delta)
    assert bound.error == EPSILON_ERROR
    assert bound.epsilon == pytest.approx(opacus_epsilon(releases, delta), abs=1e-6)


def test_a_grid_that_would_be_too_large_gives_a_larger_error() -> None:
    releases = [(0.5, 100.0, 100_000)]
    bound = epsilon_bound(releases, 1e-5)
    assert EPSILON_ERROR < bound.error < 0.06
    # The same composition, to the central limit: mu = 0.5 sqrt(100,000) / 100.
    mu = 0.5 * 100_000**0.5 / 100.0
    exact = bound.epsilon - bound.error
    delta = stats.norm.cdf(mu / 2 - exact / mu) - np.exp(exact) * stats.norm.cdf(
        -mu / 2 - exact / mu
    )
    assert delta == pytest.approx(1e-5, rel=0.03)


@pytest.mark.parametrize("count", [10**4, 10**6])
def test_many_tiny_losses_add_up(count: int) -> None:
    # mu = 0.1 sqrt(count) / sigma = 0.5 in both, so that epsilon hardly differs.
    sigma = 0.2 * count**0.5
    bound = epsilon_bound([(0.1, sigma, count)], 1e-5)
    gaussian = epsilon_prv([Event(1.0, 2.0)], 1e-5)
    assert bound.epsilon - bound.error == pytest.approx(gaussian - EPSILON_ERROR, abs=4e-3)

"""The comparison of noise families: its figures, on samples so few that times do not count."""

import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from shared.randomness import from_seed
from simulations.bench import noise_families
from simulations.bench.noise_families import (
    ORDERS,
    FamilyRow,
    gaussian_rdp,
    measure,
    print_families,
    skellam_rdp,
    skellam_tail,
)


@pytest.fixture(scope="module")
def rows() -> list[FamilyRow]:
    return measure(samples=1000)


def of(rows: list[FamilyRow], family: str, bits: int, multiplier: float) -> FamilyRow:
    return next(
        row
        for row in rows
        if (row.family, row.bits, row.noise_multiplier) == (family, bits, multiplier)
    )


def test_every_grid_and_multiplier_has_both_families(rows: list[FamilyRow]) -> None:
    assert [(row.family, row.bits) for row in rows[:2]] == [
        ("discrete Gaussian", 8),
        ("Skellam", 8),
    ]
    assert len({(row.family, row.bits, row.noise_multiplier) for row in rows}) == len(rows) == 24
    assert all(row.sample_us > 0.0 for row in rows)


def test_on_a_fine_grid_both_families_cost_what_a_gaussian_costs(rows: list[FamilyRow]) -> None:
    """Epsilon of one Gaussian of multiplier 4 at delta 1e-5, by Balle and Wang: 0.926."""
    gaussian, skellam = (of(rows, family, 23, 4.0) for family in ("discrete Gaussian", "Skellam"))
    assert gaussian.epsilon_pld == pytest.approx(0.926, abs=1e-3)
    delta = stats.norm.cdf(0.125 - 0.926 * 4) - math.exp(0.926) * stats.norm.cdf(-0.125 - 0.926 * 4)
    assert delta == pytest.approx(1e-5, rel=0.01)
    assert gaussian.epsilon_rdp == pytest.approx(1.013, abs=1e-3)
    assert skellam.epsilon_rdp == pytest.approx(gaussian.epsilon_rdp, rel=1e-6)
    assert skellam.epsilon_pld is None


def test_a_coarse_grid_costs_more_and_shorter_numbers(rows: list[FamilyRow]) -> None:
    coarse, fine = (of(rows, "discrete Gaussian", bits, 1.0) for bits in (8, 23))
    assert coarse.epsilon_rdp > 1.5 * fine.epsilon_rdp
    # 1000 users with four sensitivities each, and a sign: 4000 * 2**8 and 4000 * 2**23.
    assert (coarse.number_bits, fine.number_bits) == (21, 36)


def test_the_bound_of_a_skellam_is_the_gaussians_and_more() -> None:
    """By hand: distances 2 and 3, variance 25, order 2: 4 / 25 + min(30 / 2500, 4.5 / 25)."""
    assert skellam_rdp(2.0, 3.0, 5.0)[0] == pytest.approx(0.16 + 0.012)
    assert gaussian_rdp(2.0, 5.0, 1, 10)[0] == pytest.approx(0.16)
    # At high orders the other bound is less: 3 * 3 / 50.
    order = np.array(ORDERS)[-1]
    assert skellam_rdp(2.0, 3.0, 5.0)[-1] == pytest.approx(order * 4 / 50 + 0.18)


def test_shares_of_few_steps_cost_the_discrete_gaussian_something() -> None:
    one, eight = (gaussian_rdp(1.0, 2.0, shares, 100) for shares in (1, 8))
    assert np.all(eight > one * 1.001)
    assert np.all(gaussian_rdp(1.0, 1000.0, 8, 100) == gaussian_rdp(1.0, 1000.0, 1, 100))


@pytest.mark.parametrize("deviation", [2.0, 30.0, 1e6])
def test_a_skellams_tail_is_heavier_and_its_bound_holds(deviation: float) -> None:
    tail = skellam_tail(deviation)
    assert tail > 12.0 * deviation * (1.0 - 1e-9)
    chance = (
        stats.skellam.logsf(tail, deviation**2 / 2, deviation**2 / 2) if deviation < 10 else -72
    )
    assert chance <= -72.0


def test_a_skellam_has_the_planned_variance() -> None:
    """Outside five of its own deviations once in a million times."""
    drawn = noise_families._skellam(40_000, 7.0, from_seed(0))
    assert abs((drawn / 7.0).var() - 1.0) < 5.0 * math.sqrt(2.0 / 40_000) * 1.1


def test_the_table_has_a_line_for_each(rows: list[FamilyRow]) -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        print_families(console, rows)
    lines = captured.get().splitlines()
    assert sum("discrete Gaussian" in line for line in lines) == 12
    assert sum("Skellam" in line and "2^-23" in line for line in lines) == 3

"""The forecast: rounds that fit, exact where the curve is known, never more than the budget."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from scipy.stats import norm
from typer.testing import CliRunner

from audit.forecast import Forecast, Setting, forecast, largest, print_forecast
from audit.views_cli import forecast_command
from shared.accounting import LARGEST_COUNT, Event, epsilon_checked, merged
from shared.entries import Intent, Opening
from shared.errors import PrivacyError
from shared.policy import (
    BudgetRules,
    FederationRules,
    MechanismRules,
    OrganisationRules,
    Policy,
)
from shared.spending import Contents, Spend, read_contents, running_epsilons

DELTA = 1e-5
SERVERS = ("ab" * 32, "cd" * 32)


def _intent(mechanism: str, sampling_rate: float, sigma: float, **changes: Any) -> Intent:
    intent = Intent(
        run="r",
        round=0,
        federation="",
        mechanism=mechanism,
        sampling_rate=sampling_rate,
        noise_multiplier=sigma,
        sensitivity=1.0,
        noise_share=1.0,
        count=1,
        noise="own",
        distribution="gaussian",
        aggregation="plain",
        least_participants=1,
        participants=(),
        secret_randomness=True,
        plan="",
        adapter_before="",
        policy="",
        population="",
        code="",
        canaries=0,
    )
    return dataclasses.replace(intent, **changes)


def _contents(intents: Sequence[Intent], epsilon: float = 2.0, apart: bool = False) -> Contents:
    policy = Policy(
        organisation=OrganisationRules(name="org-1", declared_users=1000),
        budget=BudgetRules(epsilon=epsilon, delta=DELTA, shared_by_federations=not apart),
        mechanism=MechanismRules(least_noise_multiplier=1.0),
        federations=FederationRules(allowed=SERVERS if apart else ()),
    )
    opening = Opening("", {}, "", "user", "add or remove one user", "", "federation")
    at = "2026-11-25T03:57:10.123+00:00"
    spends = [Spend(n, at, intent, ()) for n, intent in enumerate(intents, start=2)]
    return Contents(opening, [(1, "", policy)], spends)


def _excess(epsilon: float, mu: float) -> float:
    """Delta of a Gaussian release (Balle and Wang 2018, theorem 8)."""
    above = norm.cdf(mu / 2 - epsilon / mu)
    return float(above - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


SAMPLED = [
    _intent("popularity", 1.0, 8.0),
    *[_intent("step", 0.1, 2.0, round=n, count=5) for n in range(1, 5)],
]


def test_rounds_of_all_users_fit_as_the_exact_gaussian_curve_says() -> None:
    made = forecast(_contents([_intent("popularity", 1.0, 4.0), _intent("step", 1.0, 20.0)]))
    exact = next(
        rounds - 1
        for rounds in range(1, 5000)
        if _excess(2.0, (1 / 16 + (1 + rounds) / 400) ** 0.5) > DELTA
    )
    # The coarse grid errs towards fewer by a part in a thousand.
    assert exact * 0.998 - 1 <= made.fits <= exact


@pytest.fixture(scope="module")
def sampled() -> Forecast:
    return forecast(_contents(SAMPLED))


def _after(made: Forecast, setting: Setting, rounds: int) -> float:
    return epsilon_checked([*made.account.events, *setting.events(rounds)], DELTA)


def test_rounds_that_fit_keep_the_budget_and_one_part_in_a_hundred_more_breaks_it(
    sampled: Forecast,
) -> None:
    assert _after(sampled, sampled.setting, sampled.fits) <= 2.0
    assert _after(sampled, sampled.setting, sampled.fits + sampled.fits // 100 + 1) > 2.0


@pytest.mark.parametrize("place", [1, -1])
def test_another_setting_is_told_as_many_rounds_as_fit_but_for_one_part_in_fifty(
    sampled: Forecast, place: int
) -> None:
    other = sampled.alternatives[place]
    assert _after(sampled, other.setting, other.rounds) <= 2.0
    assert _after(sampled, other.setting, other.rounds + other.rounds // 50 + 1) > 2.0


def test_the_curve_begins_at_what_is_spent_and_ends_past_the_budget(sampled: Forecast) -> None:
    rounds, epsilons = zip(*sampled.points, strict=True)
    assert (rounds[0], epsilons[0]) == (0, sampled.account.epsilon)
    assert list(epsilons) == sorted(epsilons)
    assert rounds[-1] == sampled.fits + sampled.fits // 4
    last = _after(sampled, sampled.setting, rounds[-1])
    assert 2.0 < last <= epsilons[-1] <= last * 1.002


def test_the_settings_of_the_latest_round_are_continued() -> None:
    made = forecast(_contents([*SAMPLED, _intent("step", 0.5, 9.0, run="s", count=2)]), rounds=4)
    setting = made.setting
    assert (setting.sampling_rate, setting.noise_multiplier, setting.steps) == (0.5, 9.0, 2)
    assert made.points[-1][0] == 4


def test_only_the_budget_of_the_latest_rounds_federation_is_continued() -> None:
    intents = [_intent("step", 1.0, 20.0, federation=name, run=name) for name in SERVERS]
    intents = [_intent("popularity", 1.0, 1.2, federation=SERVERS[0]), *intents]
    made = forecast(_contents(intents, apart=True))
    assert made.account.federation == SERVERS[1]
    assert made.account.epsilon == epsilon_checked((Event(1.0, 20.0),), DELTA)


def test_noise_below_the_policys_least_is_not_offered() -> None:
    made = forecast(_contents([_intent("step", 1.0, 1.5)], epsilon=8.0), rounds=2)
    below = [a for a in made.alternatives if a.setting.noise_multiplier < 1.0]
    assert [(a.allowed, a.rounds) for a in below] == [(False, 0)]


def test_a_spent_budget_has_no_rounds_left() -> None:
    made = forecast(_contents([_intent("step", 1.0, 1.1)], epsilon=2.0))
    assert made.fits == 0
    assert [a.rounds for a in made.alternatives] == [0] * 7


@pytest.mark.parametrize(
    ("intents", "sentence"),
    [
        ([], "no adapter round"),
        ([_intent("popularity", 1.0, 4.0)], "no adapter round"),
        ([_intent("step", 1.0, 4.0, secret_randomness=False)], "not private"),
        ([_intent("step", 1.0, 4.0, noise_share=0.5)], "not private"),
    ],
)
def test_what_cannot_be_continued_is_refused(intents: list[Intent], sentence: str) -> None:
    with pytest.raises(PrivacyError, match=sentence):
        forecast(_contents(intents))


def test_more_steps_than_the_accountants_can_count_are_refused() -> None:
    with pytest.raises(PrivacyError, match="ask for fewer rounds"):
        forecast(_contents(SAMPLED), rounds=LARGEST_COUNT)


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("guess", [0, 1, 5, 2000])
@pytest.mark.parametrize("limit", [0, 1, 6, 7, 500, 5000])
def test_the_largest_number_that_fits_is_found_from_any_guess(
    limit: int, guess: int, most: int
) -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert largest(fits, most, guess) == min(limit, most)
    assert min(asked) >= 1
    assert max(asked) <= most
    rough = largest(fits, most, guess, precision=100)
    assert min(limit, most) * 0.99 - 1 <= rough <= min(limit, most)


def test_epsilons_in_turn_are_those_of_the_compositions_and_err_upward() -> None:
    parts = [merged([Event(1.0, 6.0)]), merged([Event(0.1, 2.0, 50)]), merged([Event(0.2, 3.0, 9)])]
    running = running_epsilons(parts, DELTA)
    for number, epsilon in enumerate(running, start=1):
        exact = epsilon_checked([e for part in parts[:number] for e in part], DELTA)
        assert exact - 1e-6 <= epsilon <= exact * 1.002


def test_the_screen_tells_what_is_left_and_marks_what_is_over(sampled: Forecast) -> None:
    console = Console(width=100, record=True, file=StringIO())
    print_forecast(console, sampled)
    text = " ".join(console.export_text().split())
    assert f"{sampled.fits} further rounds like the last one fit" in text
    assert text.count("over budget") == sum(n > sampled.fits for n, _ in sampled.points[::4])
    assert "Noise \N{MULTIPLICATION SIGN} 2" in text


@pytest.mark.parametrize(("name", "start"), [("f.svg", b"<?xml"), ("f.png", b"\x89PNG")])
def test_the_command_draws_a_chart(house: Any, tmp_path: Path, name: str, start: bytes) -> None:
    app = typer.Typer()
    app.command()(forecast_command)
    options = [str(house.folder), "--rounds", "5", "--plot", str(tmp_path / name)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_chart_of_another_kind_is_refused(house: Any, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(forecast_command)
    done = CliRunner().invoke(app, [str(house.folder), "--plot", str(tmp_path / "f.pdf")])
    assert isinstance(done.exception, PrivacyError)
    assert list(tmp_path.glob("*f.pdf*")) == []


def test_nothing_is_forecast_on_a_ledger_with_faults(house: Any) -> None:
    app = typer.Typer()
    app.command()(forecast_command)
    house.tamper("DELETE FROM records WHERE sequence = 9")
    done = CliRunner().invoke(app, [str(house.folder)])
    assert isinstance(done.exception, PrivacyError)
    assert "the first at record 9" in str(done.exception)


def test_spending_is_read_from_a_real_ledger(house: Any) -> None:
    contents = read_contents(house.stored())
    assert [spend.intent.mechanism for spend in contents.spends] == [
        "popularity",
        "cooccurrence",
        *["step"] * 3,
    ]
    assert all(len(spend.releases) == 1 for spend in contents.spends)
    assert contents.policy == house.policy


def test_the_views_load_no_torch(house: Any, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from audit.views_cli import *\n"
        f"folder, out = Path({str(house.folder)!r}), Path({str(tmp_path)!r})\n"
        "heavy = {'matplotlib', 'jinja2', 'dp_accounting', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "report_command(folder, out / 'r.html'); forecast_command(folder, 3, out / 'f.svg')\n"
        "explain_command(folder, None, None, None)\n"
        "assert 'torch' not in sys.modules and 'client' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""The ledger keeps what was written, whatever ends the process, and sells no budget twice."""

import dataclasses
import math
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from client.ledger import Budget, Ledger, Release
from shared.accounting import Event, calibrate, epsilon_checked
from shared.errors import PrivacyError
from shared.plan import Mechanism, Noise, PrivacyPlan

BUDGET = Budget(8.0, 1e-4)
# One release of it fits into the budget, two do not.
MOST_OF_IT = Mechanism("step", 1.0, 0.61, 1.0)

SPEND_AND_DIE = """
import os, signal, sys
from pathlib import Path
from client.ledger import Budget, Ledger
from shared.plan import PrivacyPlan

plan = PrivacyPlan.from_json(sys.argv[2])
ledger = Ledger(Path(sys.argv[1]), Budget(8.0, 1e-4))
ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "house" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path, BUDGET) as opened:
        yield opened


@pytest.fixture
def one_step(plan: PrivacyPlan) -> PrivacyPlan:
    return dataclasses.replace(plan, popularity=None, cooccurrence=None, step=MOST_OF_IT, steps=1)


def _reserve_at_once(path: Path, plan: PrivacyPlan, number: int, barrier: Barrier) -> None:
    with Ledger(path, BUDGET) as ledger:
        barrier.wait(timeout=60)
        try:
            ledger.reserve(f"run-{number}/1/step", MOST_OF_IT, 1, plan, True)
        except PrivacyError:
            sys.exit(3)


def test_what_is_reserved_is_spent(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.reserve("run/0/popularity", plan.mechanism("popularity"), 1, plan, True)
    ledger.reserve("run/1/step", plan.mechanism("step"), 2, plan, True)
    expected = [plan.mechanism("popularity").event(), plan.mechanism("step").event(2)]
    assert set(ledger.events()) == set(expected)
    assert ledger.spent() == epsilon_checked(expected, BUDGET.delta)


def test_a_plan_can_be_spent_to_its_end_and_no_further(ledger: Ledger, plan: PrivacyPlan) -> None:
    for name in ("popularity", "cooccurrence"):
        ledger.reserve(f"run/0/{name}", plan.mechanism(name), 1, plan, True)
    for number in range(plan.steps):
        ledger.reserve(f"run/{number + 1}/step", plan.mechanism("step"), 1, plan, True)
    assert ledger.spent() == plan.spent()
    with pytest.raises(PrivacyError, match="budget is 8"):
        ledger.reserve("run/99/step", plan.mechanism("step"), 1, plan, True)


def test_a_refused_intent_leaves_no_trace(ledger: Ledger, one_step: PrivacyPlan) -> None:
    ledger.reserve("first/1/step", MOST_OF_IT, 1, one_step, True)
    spent = ledger.events()
    with pytest.raises(PrivacyError, match="refused"):
        ledger.reserve("second/1/step", MOST_OF_IT, 1, one_step, True)
    assert ledger.events() == spent


def test_the_runs_of_one_ledger_add_up(ledger: Ledger, plan: PrivacyPlan) -> None:
    for run in ("spring", "autumn"):
        for name in ("popularity", "cooccurrence"):
            request = f"{run}/0/{name}"
            if run == "spring":
                ledger.reserve(request, plan.mechanism(name), 1, plan, True)
    with pytest.raises(PrivacyError, match="budget"):
        ledger.reserve("autumn/0/cooccurrence", plan.mechanism("cooccurrence"), 1, plan, True)


def test_a_plan_that_claims_the_event_does_not_excuse_it(ledger: Ledger, plan: PrivacyPlan) -> None:
    loud = Mechanism("step", 1.0, 0.3, 1.0)
    greedy = dataclasses.replace(plan, step=loud, steps=4)
    with pytest.raises(PrivacyError, match="budget"):
        ledger.reserve("run/1/step", loud, 1, greedy, True)


def test_a_release_without_noise_fits_no_budget(ledger: Ledger, plan: PrivacyPlan) -> None:
    silent = Mechanism("step", 1.0, 0.0, 1.0)
    with pytest.raises(PrivacyError, match="inf"):
        ledger.reserve("run/1/step", silent, 1, plan, True)


def test_a_second_intent_of_a_request_is_refused(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
    with pytest.raises(PrivacyError, match="run/1/step"):
        ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
    assert ledger.events() == (plan.mechanism("step").event(),)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}'",
        "UPDATE entries SET request = 'other'",
        "UPDATE OR REPLACE entries SET kind = 'open'",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE kind = 'intent'",
    ],
)
def test_entries_can_neither_be_changed_nor_removed(
    ledger: Ledger, plan: PrivacyPlan, statement: str
) -> None:
    ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
    with (
        closing(sqlite3.connect(ledger.path)) as stranger,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        stranger.execute(statement)
    assert ledger.events() == (plan.mechanism("step").event(),)


def test_entries_are_flushed_before_the_call_returns(ledger: Ledger) -> None:
    full = 2
    assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_an_intent_survives_a_kill_before_its_release(path: Path, plan: PrivacyPlan) -> None:
    died = subprocess.run(
        [sys.executable, "-c", SPEND_AND_DIE, str(path), plan.to_json()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    with Ledger(path, BUDGET) as ledger:
        assert ledger.events() == (plan.mechanism("step").event(),)
        assert ledger.releases() == ()
        with pytest.raises(PrivacyError, match="already"):
            ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)


def test_processes_cannot_both_take_the_last_of_a_budget(path: Path, one_step: PrivacyPlan) -> None:
    context = multiprocessing.get_context("fork")
    Ledger(path, BUDGET).close()
    barrier = context.Barrier(3)
    children = [
        context.Process(target=_reserve_at_once, args=(path, one_step, number, barrier))
        for number in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=90)
    assert sorted(child.exitcode or 0 for child in children) == [0, 3, 3]
    with Ledger(path, BUDGET) as ledger:
        assert ledger.events() == (MOST_OF_IT.event(),)


@pytest.mark.parametrize("other", [Budget(9.0, 1e-4), Budget(8.0, 1e-3), Budget(None, 1e-4)])
def test_a_ledger_is_not_reopened_with_another_budget(
    ledger: Ledger, path: Path, other: Budget
) -> None:
    with pytest.raises(PrivacyError, match="after the fact"):
        Ledger(path, other)


def test_a_reopened_ledger_remembers(path: Path, plan: PrivacyPlan) -> None:
    with Ledger(path, BUDGET) as first:
        first.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
        first.record_release("run/1/step", "step", 128, "ab" * 32)
    with Ledger(path, BUDGET) as second:
        assert second.events() == (plan.mechanism("step").event(),)
        assert second.releases() == (Release("step", "run/1/step", 128, "ab" * 32),)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("user,item,time\n" * 500)
    with pytest.raises(PrivacyError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "ledger.sqlite", BUDGET)


def test_noise_from_the_operating_system_is_private(ledger: Ledger, plan: PrivacyPlan) -> None:
    ledger.reserve("run/1/step", plan.mechanism("step"), 1, plan, True)
    assert ledger.private()


@pytest.mark.parametrize(("sigma", "secret"), [(0.0, True), (2.0, False)])
def test_one_release_without_secret_noise_ends_privacy_for_good(
    path: Path, plan: PrivacyPlan, sigma: float, secret: bool
) -> None:
    bare = dataclasses.replace(plan, noise=Noise.NONE)
    with Ledger(path, Budget(None, 1e-4)) as ledger:
        ledger.reserve("run/1/step", Mechanism("step", 1.0, sigma, 1.0), 1, bare, secret)
        ledger.reserve("run/2/step", plan.mechanism("step"), 1, bare, True)
        assert not ledger.private()
        assert math.isinf(ledger.spent()) == (sigma == 0.0)


def test_the_ledger_names_the_least_noise_of_a_mechanism(ledger: Ledger, plan: PrivacyPlan) -> None:
    for number, sigma in enumerate((9.0, 4.0, 6.0)):
        ledger.reserve(f"run/{number}/step", Mechanism("step", 1.0, sigma, 1.0), 1, plan, True)
    assert ledger.noise_multiplier("step") == 4.0
    assert ledger.noise_multiplier("popularity") == 0.0


def test_the_test_budget_fits_one_release_and_not_two() -> None:
    least = calibrate(lambda scale: (Event(1.0, scale),), 8.0, 1e-4)
    assert least < MOST_OF_IT.noise_multiplier < math.sqrt(2) * least

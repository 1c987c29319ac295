"""``tacit bench accounting``: what it takes to state the epsilon of a whole ledger."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from client.budget import BudgetJudge
from shared.accounting import (
    Event,
    Events,
    epsilon_checked,
    epsilon_pld,
    epsilon_prv,
    epsilon_rdp,
    merged,
)
from shared.chain import now
from shared.entries import Intent
from shared.judge import Past
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.policy import Policy

# In mu, the deviation of the Gaussian that the composition tends to: epsilon near 0.8, 2 and 10.
STRENGTHS = (0.2, 0.5, 2.0)
RATES = (0.01, 1.0)
STEPS = 100


@dataclass(frozen=True)
class AccountingRow:
    """One accountant over one made-up ledger.

    Attributes:
        accountant: PLD, PRV, RDP; checked, which is PLD confirmed by PRV; or which judgement of a
            release against a budget.
        rounds: composed.
        settings: distinct pairs of sampling rate and noise multiplier.
        delta: at which.
        epsilon: that it states.
        seconds: that it took, nothing remembered from before.
    """

    accountant: str
    rounds: int
    settings: int
    delta: float
    epsilon: float
    seconds: float


def measure(rounds: int = 10_000, settings: int = 50, delta: float = 1e-5) -> list[AccountingRow]:
    """Time every accountant over ledgers of several strengths.

    Args:
        rounds: of a ledger.
        settings: distinct ones, of ``rounds / settings`` rounds each.
        delta: at which.
    """
    rows = []
    for strength in STRENGTHS:
        events = made_up_ledger(rounds, settings, strength)
        # One round later, so that what the accountants remember does not help.
        later = merged([*events, replace(events[0], count=1)])
        for name, accountant, ledger in (
            ("PLD", epsilon_pld, events),
            ("PRV", epsilon_prv, events),
            ("RDP", epsilon_rdp, events),
            ("checked", epsilon_checked, later),
        ):
            rows.append(_timed(name, accountant, ledger, delta))
    return rows + before_a_round(rounds, settings, delta)


def before_a_round(rounds: int, settings: int, delta: float) -> list[AccountingRow]:
    """What judging takes over a long ledger: the first release of a plan, and a round after it."""
    identity = {"name": "bench", "declared_users": 1000}
    policy = Policy.from_values(
        {"organisation": identity, "budget": {"epsilon": 50.0, "delta": delta}}, "the bench"
    )
    past = Past()
    for place, event in enumerate(made_up_ledger(rounds, settings, STRENGTHS[-1])):
        past.add(_intent(event, f"earlier-{place}", 1), now())
    step = Mechanism("step", 0.1, 5.0, 1.0)
    plan = PrivacyPlan(None, None, step, None, STEPS, delta, None, Noise.OWN)
    judge = BudgetJudge(policy, past)
    seconds = []
    for number in range(STEPS):
        intent = _intent(step.event(), "run", number)
        started = time.perf_counter()
        refusals = judge.refusals(intent, plan)
        seconds.append(time.perf_counter() - started)
        assert not refusals
        past.add(intent, now())
    epsilon = epsilon_checked(past.events(), delta)
    size = (rounds + STEPS, settings + 1, delta, epsilon)
    return [
        AccountingRow("a plan's first release", *size, seconds[0]),
        AccountingRow("each round after it", *size, statistics.median(seconds[1:])),
    ]


def _intent(event: Event, run: str, number: int) -> Intent:
    step = Mechanism("step", event.sampling_rate, event.noise_multiplier, 1.0)
    plan = PrivacyPlan(None, None, step, None, STEPS, 1e-5, None, Noise.OWN)
    unsaid = dict.fromkeys(("federation", "adapter_before", "policy", "population", "code"), "")
    return Intent.of(
        step,
        plan,
        event.count,
        run=run,
        round=number,
        participants=(),
        secret_randomness=True,
        canaries=0,
        **unsaid,
    )


def made_up_ledger(rounds: int, settings: int, mu: float) -> Events:
    """Settings with sampling rates from 1% to all users, each an equal part of mu squared."""
    count = max(rounds // settings, 1)
    part = mu**2 / (settings * count)
    return merged(
        Event(float(q), math.log1p(part / q**2) ** -0.5, count)
        for q in np.geomspace(*RATES, settings)
    )


def _timed(
    name: str, accountant: Callable[[Events, float], float], events: Events, delta: float
) -> AccountingRow:
    started = time.perf_counter()
    epsilon = accountant(events, delta)
    seconds = time.perf_counter() - started
    count = sum(event.count for event in events)
    return AccountingRow(name, count, len(events), delta, epsilon, seconds)

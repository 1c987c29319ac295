"""The budget's epsilon: the quick check decides as the full computation does, in any order."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.agent import Agent
from client.budget import BudgetJudge
from client.ledger import Ledger
from shared.accounting import Events, epsilon_prv, merged
from shared.entries import Intent
from shared.errors import RefusedError
from shared.judge import Past, judge_plan
from shared.messages import Request
from shared.plan import Mechanism, PrivacyPlan
from shared.policy import Policy

Intend = Callable[..., Intent]
MakePolicy = Callable[..., Policy]
OpenLedger = Callable[..., Ledger]

SERVERS = ("aa" * 32, "bb" * 32)
SIGMAS = (2.0, 3.0)


def one_shot(sigma: float, steps: int, plan: PrivacyPlan) -> PrivacyPlan:
    """A plan of popularity and some steps, all of one noise multiplier, added up like ``plan``."""
    as_planned = dataclasses.replace(plan.mechanism("step"), noise_multiplier=sigma)
    return dataclasses.replace(
        plan,
        popularity=dataclasses.replace(as_planned, name="popularity"),
        cooccurrence=None,
        step=as_planned,
        steps=steps,
    )


class Naive:
    """Recomputes everything for each intent, by the rule as it is written down."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.spent: list[Intent] = []

    def allows(self, intent: Intent, plan: PrivacyPlan) -> bool:
        shared = self.policy.budget.shared_by_federations
        counted = [i for i in self.spent if shared or i.federation == intent.federation]
        binds = self.policy.trust.binds
        before = [i.event(binds) for i in counted]
        of_run = [i for i in self.spent if i.run == intent.run]
        if not of_run:
            return self._fits([*before, *plan.events(binds=binds)])
        return self._fits([*before, intent.event(binds)])

    def _fits(self, events: Any) -> bool:
        found: Events = merged(events)
        budget = self.policy.budget
        return epsilon_prv(found, budget.delta) <= (budget.epsilon or 0.0)


intents = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["popularity", "step", "step"]),
        st.integers(0, 1),
        st.integers(1, 2),
    ),
    min_size=2,
    max_size=10,
)


@settings(max_examples=200, deadline=None)
@given(
    sequence=intents,
    runs=st.lists(st.tuples(st.sampled_from(SIGMAS), st.integers(1, 4)), min_size=3, max_size=3),
    shared=st.booleans(),
    binds=st.sampled_from(["plain", "joint", "alone"]),
    reopened=st.integers(0, 10),
)
def test_the_quick_check_decides_as_the_full_computation(
    make_policy: MakePolicy,
    intend: Intend,
    plan: PrivacyPlan,
    sequence: list[tuple[int, str, int, int]],
    runs: list[tuple[float, int]],
    shared: bool,
    binds: str,
    reopened: int,
    secure_plan: PrivacyPlan,
) -> None:
    """In a secure sum every second intent of a round is a further attempt, beyond the plan."""
    trust = {} if binds == "plain" else {"binds": binds}
    policy = make_policy(
        9.0 if binds == "alone" else 3.5,
        trust=trust,
        budget={"shared_by_federations": shared},
        federations={"allowed": SERVERS},
        mechanism={"most_steps_per_run": 4},
    )
    past, naive = Past(), Naive(policy)
    judge = BudgetJudge(policy, past)
    for place, (run, name, server, count) in enumerate(sequence):
        if place == reopened:
            judge = BudgetJudge(policy, past)
        whole = one_shot(*runs[run], secure_plan if trust else plan)
        # A run belongs to the federation that began it.
        federation = next(
            (i.federation for i in naive.spent if i.run == f"run-{run}"), SERVERS[server]
        )
        intent = intend(
            whole.mechanism(name),
            whole,
            count if name == "step" else 1,
            run=f"run-{run}",
            federation=federation,
        )
        if judge_plan(policy, whole, intent, past):
            continue
        with pytest.MonkeyPatch.context() as patch:
            # PRV alone takes 3 ms where the two accountants together take 500.
            patch.setattr("client.budget.epsilon_checked", epsilon_prv)
            allowed = judge.refusals(intent, whole) == []
        assert allowed == naive.allows(intent, whole)
        if allowed:
            past.add(intent, "2026-05-01T12:00:00+00:00")
            naive.spent.append(intent)


def test_a_run_that_does_not_fit_as_a_whole_does_not_begin(
    make_policy: MakePolicy,
    open_ledger: OpenLedger,
    intend: Intend,
    plan: PrivacyPlan,
    tmp_path: Path,
) -> None:
    """Its first release alone would fit, and so would every release that others paid for."""
    whole = one_shot(2.0, 3, plan)
    with open_ledger(tmp_path, make_policy(4.0)) as ledger:
        first = intend(whole.mechanism("popularity"), whole, run="first", round=0)
        ledger.reserve("first/0/popularity", first, whole)
        second = dataclasses.replace(first, run="second")
        with pytest.raises(RefusedError, match="the whole plan would bring epsilon from"):
            ledger.reserve("second/0/popularity", second, whole)
        step = intend(whole.mechanism("step"), whole, run="first")
        ledger.reserve("first/1/step", step, whole)
        assert [intent.run for intent in ledger.intents()] == ["first", "first"]


def test_a_budget_for_each_federation_is_spent_by_that_one_alone(
    make_policy: MakePolicy,
    open_ledger: OpenLedger,
    intend: Intend,
    plan: PrivacyPlan,
    tmp_path: Path,
) -> None:
    whole = dataclasses.replace(one_shot(1.0, 0, plan), step=None)
    policy = make_policy(
        4.0, budget={"shared_by_federations": False}, federations={"allowed": SERVERS}
    )
    with open_ledger(tmp_path, policy) as ledger:
        for number, server in enumerate(SERVERS):
            intent = intend(
                whole.mechanism("popularity"), whole, run=f"run-{number}", federation=server
            )
            ledger.reserve(f"run-{number}/1/popularity", intent, whole)
        again = intend(whole.mechanism("popularity"), whole, run="again", federation=SERVERS[0])
        with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
            ledger.reserve("again/1/popularity", again, whole)


def test_a_plan_is_judged_without_spending_and_the_judgement_says_what_it_means(
    make_policy: MakePolicy,
    open_ledger: OpenLedger,
    intend: Intend,
    plan: PrivacyPlan,
    tmp_path: Path,
) -> None:
    with open_ledger(tmp_path, make_policy()) as ledger:
        first = intend(plan.mechanism("popularity"), plan, round=0)
        before = ledger.propose("run/0/plan", [first], plan)
        assert (before.now, before.planned) == (0.0, plan.spent())
        assert before.remains == pytest.approx(8.0 - plan.spent())
        assert ledger.events() == ()
        ledger.reserve("run/0/popularity", first, plan)
        after = ledger.propose("run/0/plan", [intend(plan.mechanism("step"), plan)], plan)
        assert after.now == ledger.spent()
        assert after.planned == before.planned


def test_a_plan_that_does_not_fit_is_refused_before_anything_of_it_runs(
    agent: Agent, plan: PrivacyPlan
) -> None:
    greedy = dataclasses.replace(plan, popularity=Mechanism("popularity", 1.0, 0.5, 1.0))
    with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
        agent.plan(Request("run", 0, greedy, "model-of-the-test", {}))
    assert agent.ledger.events() == ()
    assert not (agent.directory / "judgement.json").exists()


def test_the_plan_of_a_resumed_run_is_accepted_again_though_its_budget_is_spent(
    agent: Agent, plan: PrivacyPlan
) -> None:
    request = Request("run", 0, plan, "model-of-the-test", {})
    agent.plan(request)
    agent.popularity(request)
    agent.plan(request)
    with pytest.raises(RefusedError, match=r"\[plan\].*began under another"):
        agent.plan(dataclasses.replace(request, plan=dataclasses.replace(plan, steps=1)))
    with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
        agent.plan(dataclasses.replace(request, run="another"))


@pytest.mark.parametrize("rate", [1e-300, 1e-12, 1.0])
@pytest.mark.parametrize("sigma", [1e-300, 1e300])
def test_figures_at_the_end_of_what_floats_hold_are_refused_or_cost_what_they_should(
    make_policy: MakePolicy,
    open_ledger: OpenLedger,
    intend: Intend,
    plan: PrivacyPlan,
    tmp_path: Path,
    rate: float,
    sigma: float,
) -> None:
    odd = Mechanism("step", rate, sigma, 1.0)
    whole = dataclasses.replace(plan, popularity=None, cooccurrence=None, step=odd, steps=1)
    with open_ledger(tmp_path, make_policy()) as ledger:
        try:
            ledger.reserve("run/1/step", intend(odd, whole), whole)
        except RefusedError:
            assert ledger.events() == ()
            assert ledger.refusals()
        else:
            assert ledger.spent() < 1e-6

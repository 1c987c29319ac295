"""Whatever plan a server sends: an organisation clips, noises and counts as its policy says."""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from client import agent as module
from client.agent import Agent
from client.ledger import Ledger
from client.trainer import Update
from shared.accounting import Event, calibrate, epsilon_pld
from shared.entries import Intent
from shared.errors import RefusedError, TacitError
from shared.messages import Reply, Request
from shared.plan import Noise, PrivacyPlan
from shared.policy import Policy

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]

names = st.sampled_from(["popularity", "cooccurrence", "step"])


class Work:
    """Stands in for the work on histories, and counts how often it was done."""

    def __init__(self, adapter: Arrays) -> None:
        self.adapter = adapter
        self.done = 0

    def steps(self, **_: Any) -> Update:
        self.done += 1
        return Update(self.adapter, 0)

    def sum(self, *_: Any) -> npt.NDArray[np.float64]:
        self.done += 1
        return np.zeros(3)


@pytest.fixture(scope="module")
def work(adapter: Arrays) -> Iterator[Work]:
    counter = Work(adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "private_steps", counter.steps)
        patch.setattr(module, "popularity_sum", counter.sum)
        patch.setattr(module, "cooccurrence_sum", counter.sum)
        yield counter


@pytest.fixture(scope="module")
def least_noise() -> float:
    """Noise multiplier with which one release over all users takes the whole budget."""
    return calibrate(lambda scale: (Event(1.0, scale),), 8.0, 1e-4)


def changed(plan: PrivacyPlan, name: str, **change: Any) -> PrivacyPlan:
    part: dict[str, Any] = {name: dataclasses.replace(plan.mechanism(name), **change)}
    return dataclasses.replace(plan, **part)


def ask(
    agent: Agent,
    plan: PrivacyPlan,
    name: str,
    work: Work,
    number: int = 1,
    run: str = "run",
    server: str = "",
) -> Reply:
    arrays = work.adapter if name == "step" else {"keys": agent.catalogue.key_hashes[:3]}
    request = Request(run, number, plan, "model-of-the-test", arrays, server)
    answer: dict[str, Callable[[Request], Reply]] = {
        "popularity": agent.popularity,
        "cooccurrence": agent.cooccurrence,
        "step": agent.train,
        "evaluation": agent.evaluate,
    }
    return answer[name](request)


def refused(open_agent: OpenAgent, plan: PrivacyPlan, name: str, work: Work, rule: str) -> None:
    """Assert that a plan is refused by a rule, with nothing done, spent or sent."""
    before = work.done
    with open_agent() as agent:
        with pytest.raises(RefusedError, match=re.escape(f"[{rule}]")):
            ask(agent, plan, name, work)
        assert rule in [refusal.rule for refusal in agent.ledger.refusals()]
        assert work.done == before
        assert agent.ledger.events() == ()
        assert agent.ledger.releases() == ()
        assert not (agent.directory / "answers").exists()


@pytest.mark.parametrize("name", ["popularity", "cooccurrence", "step"])
def test_the_honest_plan_is_followed(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str
) -> None:
    before = work.done
    with open_agent() as agent:
        ask(agent, plan, name, work)
        assert work.done == before + 1
        assert agent.ledger.events() == (plan.mechanism(name).event(),)


@pytest.mark.slow
@settings(max_examples=9, deadline=None)
@given(name=names, part=st.sampled_from([0.7, 0.95, 0.999]))
def test_noise_below_what_the_budget_allows_is_refused(
    open_agent: OpenAgent,
    plan: PrivacyPlan,
    work: Work,
    least_noise: float,
    name: str,
    part: float,
) -> None:
    hostile = changed(plan, name, noise_multiplier=part * least_noise)
    refused(open_agent, hostile, name, work, "budget.epsilon")


@pytest.mark.parametrize("name", ["popularity", "cooccurrence", "step"])
def test_a_plan_without_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str
) -> None:
    hostile = changed(plan, name, noise_multiplier=0.0)
    refused(open_agent, hostile, name, work, "mechanism.least_noise_multiplier")


@settings(max_examples=30, deadline=None)
@given(name=names, share=st.floats(1e-9, 1.0, exclude_max=True))
def test_less_than_all_of_the_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, share: float
) -> None:
    hostile = changed(plan, name, noise_share=share)
    refused(open_agent, hostile, name, work, "mechanism.least_noise_share")


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["popularity", "cooccurrence"]),
    bound=st.floats(1e-6, 1e6).filter(lambda value: value != 1.0),
)
def test_another_sensitivity_of_a_statistic_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, bound: float
) -> None:
    hostile = changed(plan, name, sensitivity=bound)
    refused(open_agent, hostile, name, work, "mechanism.sensitivity")


@settings(max_examples=30, deadline=None)
@given(bound=st.floats(1.0, 1e6, exclude_min=True))
def test_a_longer_clipping_norm_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, bound: float
) -> None:
    hostile = changed(plan, "step", sensitivity=bound)
    refused(open_agent, hostile, "step", work, "mechanism.greatest_clipping_norm")


@settings(max_examples=30, deadline=None)
@given(name=names, noise=st.sampled_from([Noise.SHARED, Noise.NONE]), share=st.floats(0.1, 1.0))
def test_another_kind_of_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, noise: Noise, share: float
) -> None:
    hostile = dataclasses.replace(changed(plan, name, noise_share=share), noise=noise)
    refused(open_agent, hostile, name, work, "mechanism.noise")


@settings(max_examples=30, deadline=None)
@given(name=names, delta=st.floats(1.0001e-4, 0.999))
def test_a_larger_delta_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, delta: float
) -> None:
    refused(open_agent, dataclasses.replace(plan, delta=delta), name, work, "budget.delta")


@pytest.mark.parametrize("claimed", [4, 60, 10**9])
def test_a_plan_of_more_steps_than_the_organisation_takes_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, claimed: int
) -> None:
    hostile = dataclasses.replace(plan, steps=claimed)
    refused(open_agent, hostile, "step", work, "mechanism.most_steps_per_run")


@pytest.mark.parametrize("claimed", [1, 3])
def test_a_plan_pays_for_the_steps_that_it_claims_and_no_more(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, claimed: int
) -> None:
    """The honest plan has three; the server asks for one more than it said."""
    hostile = dataclasses.replace(plan, steps=claimed)
    before = work.done
    with open_agent() as agent:
        for name in ("popularity", "cooccurrence"):
            ask(agent, hostile, name, work, number=0)
        for number in range(claimed):
            ask(agent, hostile, "step", work, number + 1)
        with pytest.raises(RefusedError, match=r"\[plan\]"):
            ask(agent, hostile, "step", work, claimed + 1)
        assert work.done == before + 2 + claimed
        assert agent.ledger.spent() <= 8.0


def test_the_steps_of_a_round_are_the_organisations_own(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work
) -> None:
    with open_agent() as agent:
        ask(agent, dataclasses.replace(plan, steps=1), "step", work)
        assert [event.count for event in agent.ledger.events()] == [1]


SERVERS = ("aa" * 32, "", "bb" * 32)
STATED = {"popularity": 1.0, "cooccurrence": 1.0, "evaluation": math.sqrt(3.0)}
PARTS = {
    "popularity": "statistics_share",
    "cooccurrence": "statistics_share",
    "step": "adapter_share",
    "evaluation": "evaluation_share",
}

# Some of these rules are laid over a policy that allows nearly everything.
RULES = [
    ("budget", "delta", 1e-2),
    ("budget", "statistics_share", 0.5),
    ("budget", "adapter_share", 0.3),
    ("budget", "evaluation_share", 0.05),
    ("mechanism", "distribution", ("gaussian",)),
    ("mechanism", "least_noise_multiplier", 2.5),
    ("mechanism", "least_noise_share", 0.5),
    ("mechanism", "greatest_clipping_norm", 0.5),
    ("mechanism", "greatest_clipping_norm", 2.0),
    ("mechanism", "most_steps_per_round", 1),
    ("mechanism", "most_steps_per_run", 2),
    ("mechanism", "most_rounds_per_day", 1),
    ("mechanism", "allow_repeatable_noise", True),
    ("federations", "allowed", SERVERS[:1]),
    ("egress", "releases", ("popularity", "step")),
]
MECHANISM_FIELDS = {
    "sampling_rate": [0.5, 0.0, 1e-300, 1, True, "1.0"],
    "noise_multiplier": [0.3, 0.0, -1.0, 1e-300, 1e300, 3, math.inf, math.nan, None],
    "sensitivity": [0.5, 0.999, 1.001, 2.0, 0.0, -1.0, 1, math.nan, 10**400],
    "noise_share": [0.999, 0.5, 0.0, 1, 2.0, math.nan],
    "distribution": ["discrete", "laplace"],
    "grid_bits": [23, 30, True],
    "name": ["popularity", 3],
}
PLAN_FIELDS = {
    "steps": [0, 1, 2, 7, 10**300, -1, True, 2.5],
    "delta": [1e-5, 1e-2, 0.0, math.nan],
    "epsilon": [None, 1e-9, 1e300],
    "noise": ["shared", "none", "loud"],
    "aggregation": ["secure", "hidden"],
    "least_participants": [0, 3, 1.0],
}


def _twists(fields: dict[str, list[Any]], *parts: str) -> st.SearchStrategy[tuple[str, str, Any]]:
    """A part of a plan, a field of it, and what a hostile server writes there."""
    return st.one_of(
        *(
            st.tuples(st.sampled_from(parts), st.just(f), st.sampled_from(v))
            for f, v in fields.items()
        )
    )


sigmas = st.sampled_from([6.0, 12.0, 6.0, 12.0, 1.0, None])
plans = st.tuples(
    st.fixed_dictionaries(dict.fromkeys(PARTS, sigmas)),
    st.integers(1, 6),
    st.lists(_twists(MECHANISM_FIELDS, *PARTS) | _twists(PLAN_FIELDS, ""), max_size=2),
)
ALL = dict.fromkeys(PARTS, 12.0)
SMALLER = (ALL, 6, [("popularity", "sensitivity", 0.5)])
LOUDER = (ALL, 6, [("step", "sensitivity", 2.0)])

# Which of two offered plans, for which mechanism, in which run and round, and who asks.
asks = st.tuples(
    st.integers(0, 1),
    st.sampled_from(tuple(PARTS)),
    st.sampled_from(["run-a", "run-a", "run-b"]),
    st.integers(0, 2),
    st.sampled_from(SERVERS),
)


class Watched(Work):
    """Keeps, for each computation, the intent that stood last in the ledger when it began."""

    def __init__(self, adapter: Arrays) -> None:
        super().__init__(adapter)
        self.ledger: Ledger | None = None
        self.computed: list[Intent] = []

    def steps(self, **given: Any) -> Update:
        mechanism = given["mechanism"]
        intent = self._began()
        assert given["steps"] == intent.count
        assert mechanism.event() == Event(intent.sampling_rate, intent.noise_multiplier)
        assert mechanism.deviation == (
            intent.noise_multiplier * intent.sensitivity * intent.noise_share
        )
        return super().steps()

    def sum(self, *_: Any) -> npt.NDArray[np.float64]:
        self._began()
        return super().sum()

    def _began(self) -> Intent:
        assert self.ledger is not None
        self.computed.append(self.ledger.intents()[-1])
        return self.computed[-1]


def mu_squared(events: list[Event]) -> float:
    """In which Gaussian releases add up; Dong, Roth and Su 2022, corollaries 3.3 and 5.4."""
    return sum(
        e.count * e.noise_multiplier**-2
        if e.sampling_rate == 1.0
        else e.count * e.sampling_rate**2 * (math.exp(e.noise_multiplier**-2) - 1.0)
        for e in events
    )


@functools.cache
def whole_budget(epsilon: float, delta: float) -> float:
    """mu squared of the one Gaussian release that takes all; Balle and Wang 2018, theorem 8."""

    def excess(mu: float) -> float:
        return float(
            stats.norm.cdf(mu / 2 - epsilon / mu)
            - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    return float(optimize.brentq(excess, 1e-3, 50.0)) ** 2


def check_intents(policy: Policy, intents: list[Intent], plans_of: dict[str, PrivacyPlan]) -> None:
    """Every rule of a policy, said once more and without the code that applies it."""
    m, budget = policy.mechanism, policy.budget
    assert budget.epsilon is not None
    for place, intent in enumerate(intents):
        before, plan = intents[:place], plans_of[intent.run]
        assert intent.plan == plan.sha256
        assert intent.mechanism in policy.egress.releases
        assert not policy.federations.allowed or intent.federation in policy.federations.allowed
        assert intent.noise == m.noise == "own"
        assert intent.distribution in m.distribution
        assert intent.secret_randomness or m.allow_repeatable_noise
        assert math.isfinite(intent.noise_multiplier)
        assert intent.noise_multiplier > 0.0
        assert intent.noise_multiplier >= m.least_noise_multiplier
        assert m.least_noise_share <= intent.noise_share <= 1.0
        assert 0.0 < intent.sampling_rate <= 1.0
        if intent.mechanism == "step":
            assert 0.0 < intent.sensitivity <= m.greatest_clipping_norm
            assert 1 <= intent.count <= m.most_steps_per_round
            assert plan.steps <= m.most_steps_per_run
            of_run = [i for i in before if (i.run, i.mechanism) == (intent.run, "step")]
            assert sum(i.count for i in of_run) + intent.count <= plan.steps
        else:
            assert intent.sensitivity == STATED[intent.mechanism]
            assert intent.count == 1
        assert plan.delta <= budget.delta
        part = PARTS[intent.mechanism]
        spent = [i.event() for i in [*before, intent] if PARTS[i.mechanism] == part]
        whole = whole_budget(budget.epsilon, budget.delta)
        assert mu_squared(spent) <= getattr(budget, part) * whole * (1.0 + 1e-6)
        if intent.run not in {i.run for i in before}:
            together = [*(i.event() for i in before), *plan.events()]
            assert epsilon_pld(together, budget.delta) <= budget.epsilon
    rounds = {(i.run, i.round) for i in intents if i.mechanism == "step"}
    assert len(rounds) <= m.most_rounds_per_day
    assert epsilon_pld([i.event() for i in intents], budget.delta) <= budget.epsilon


@pytest.fixture(scope="module")
def watched(adapter: Arrays) -> Iterator[Watched]:
    counter = Watched(adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "private_steps", counter.steps)
        for name in ("popularity_sum", "cooccurrence_sum", "evaluation_sum"):
            patch.setattr(module, name, counter.sum)
        yield counter


@settings(max_examples=100, deadline=None)
@given(
    epsilon=st.sampled_from([4.0, 12.0]),
    laid_over=st.lists(st.sampled_from(RULES), min_size=1, max_size=3),
    offered=st.lists(plans, min_size=2, max_size=2),
    requests=st.lists(asks, min_size=4, max_size=8),
    steps=st.integers(1, 3),
    seed=st.sampled_from([-1] * 9 + [0]),
)
@example(8.0, [], [SMALLER, LOUDER], [(0, "popularity", "run-a", 0, "")], 1, -1)
@example(8.0, [], [SMALLER, LOUDER], [(1, "step", "run-a", 0, "")], 1, -1)
@example(
    8.0,
    [("mechanism", "most_steps_per_round", 1)],
    [LOUDER, SMALLER],
    [(1, "step", "run-a", 0, "")],
    3,
    -1,
)
def test_nothing_that_exceeds_a_policy_is_computed(
    open_agent: OpenAgent,
    watched: Watched,
    epsilon: float,
    laid_over: list[tuple[str, str, Any]],
    offered: list[tuple[dict[str, float | None], int, list[tuple[str, str, Any]]]],
    requests: list[tuple[int, str, str, int, str]],
    steps: int,
    seed: int,
) -> None:
    rules: dict[str, dict[str, Any]] = {"mechanism": {"allow_repeatable_noise": False}}
    for section, rule, value in [("mechanism", "most_steps_per_run", 100), *laid_over]:
        rules[section] = rules.get(section, {}) | {rule: value}
    privacy = {"noise_seed": seed, "steps_per_round": steps}
    with open_agent(epsilon=epsilon, rules=rules, **privacy) as agent:
        watched.ledger, watched.computed = agent.ledger, []
        plans_of: dict[str, PrivacyPlan] = {}
        for place, name, run, number, server in requests:
            try:
                plan = PrivacyPlan.from_json(message(*offered[place]))
                ask(agent, plan, name, watched, number, run, server)
            except TacitError:
                continue
            plans_of.setdefault(run, plan)
        intents = list(agent.ledger.intents())
        # Each intent is computed once, none without one, and what left belongs to an intent.
        assert watched.computed == intents
        assert len(agent.ledger.releases()) == len(intents)
        check_intents(agent.policy, intents, plans_of)


def message(
    multipliers: dict[str, float | None], steps: int, twists: list[tuple[str, str, Any]]
) -> str:
    """An honest plan with the twists of a hostile server, as it comes."""
    value: dict[str, Any] = {
        name: sigma
        and {
            "name": name,
            "sampling_rate": 1.0,
            "noise_multiplier": sigma,
            "sensitivity": STATED.get(name, 1.0),
            "noise_share": 1.0,
            "distribution": "gaussian",
            "grid_bits": 0,
        }
        for name, sigma in multipliers.items()
    }
    value |= {"aggregation": "plain", "least_participants": 1, "colluders": 0, "word_bytes": 0}
    value |= {"steps": steps, "delta": 1e-4, "epsilon": 8.0, "noise": "own"}
    value |= {"adjacency": "add or remove one user"}
    for part, field, bad in twists:
        if not part:
            value[field] = bad
        elif value[part] is not None:
            value[part][field] = bad
    return json.dumps(value)

"""Each rule of a policy, at its edge: what it lets pass, what it refuses, and by which name."""

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scipy import stats

from shared.accounting import mu_squared
from shared.entries import Intent
from shared.judge import Past, judge, judge_plan
from shared.plan import Mechanism, PrivacyPlan
from shared.policy import Policy

Intend = Callable[..., Intent]
MakePolicy = Callable[..., Policy]

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
STEP = Mechanism("step", 1.0, 10.0, 1.0)
SERVER = "aa" * 32


def at(hours: float) -> str:
    return (NOON + timedelta(hours=hours)).isoformat()


@pytest.fixture
def rules_broken(make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan) -> Callable[..., Any]:
    """Names of the rules that an intent breaks under a policy, by section."""

    def broken(
        policy: Policy | None = None, past: Past | None = None, when: str = at(0), **fields: Any
    ) -> list[str]:
        intent = intend(STEP, plan, **fields)
        found = judge(policy or make_policy(), intent, when, past or Past())
        return [refusal.rule for refusal in found]

    return broken


def test_an_honest_intent_breaks_no_rule(rules_broken: Callable[..., Any]) -> None:
    assert rules_broken() == []


@pytest.mark.parametrize(
    ("section", "rule", "limit", "field", "good", "bad"),
    [
        ("mechanism", "least_noise_multiplier", 2.0, "noise_multiplier", 2.0, 1.999),
        ("mechanism", "greatest_clipping_norm", 2.0, "sensitivity", 2.0, 2.001),
        ("mechanism", "most_steps_per_round", 3, "count", 3, 4),
        ("mechanism", "distribution", ("discrete",), "distribution", "discrete", "gaussian"),
        ("mechanism", "allow_repeatable_noise", False, "secret_randomness", True, False),
        ("egress", "releases", ("step",), "mechanism", "step", "evaluation"),
        ("federations", "allowed", (SERVER,), "federation", SERVER, ""),
        ("federations", "allowed", (SERVER,), "federation", SERVER, SERVER.upper()),
    ],
)
def test_a_rule_holds_to_its_edge(
    make_policy: MakePolicy,
    rules_broken: Callable[..., Any],
    section: str,
    rule: str,
    limit: Any,
    field: str,
    good: Any,
    bad: Any,
) -> None:
    policy = make_policy(**{section: {rule: limit}})
    assert rules_broken(policy, **{field: good}) == []
    assert f"{section}.{rule}" in rules_broken(policy, **{field: bad})


def test_noise_for_a_sum_has_the_share_that_is_asked_for_and_own_noise_is_whole(
    make_policy: MakePolicy, rules_broken: Callable[..., Any]
) -> None:
    rules = {"noise": "shared", "least_noise_share": 0.5}
    policy = make_policy(mechanism=rules, trust={"simulated_sum": True})
    assert rules_broken(policy, noise="shared", noise_share=0.5) == []
    assert rules_broken(policy, noise="shared", noise_share=0.499) == [
        "mechanism.least_noise_share"
    ]
    assert rules_broken(policy, noise="own") == ["mechanism.noise"]
    lenient = make_policy(mechanism={"least_noise_share": 0.5})
    assert rules_broken(lenient, noise_share=0.999) == ["mechanism.least_noise_share"]


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("noise_multiplier", "mechanism.least_noise_multiplier"),
        ("noise_share", "mechanism.least_noise_share"),
        ("sensitivity", "mechanism.greatest_clipping_norm"),
    ],
)
def test_no_number_passes_no_rule(rules_broken: Callable[..., Any], field: str, rule: str) -> None:
    assert rule in rules_broken(**{field: math.nan})


def test_a_round_of_no_steps_is_refused(rules_broken: Callable[..., Any]) -> None:
    assert rules_broken(count=0) == ["mechanism.most_steps_per_round"]


@pytest.mark.parametrize("name", ["popularity", "cooccurrence", "evaluation"])
def test_a_one_shot_release_is_made_once_with_its_own_sensitivity(
    rules_broken: Callable[..., Any], name: str
) -> None:
    norm = math.sqrt(3.0) if name == "evaluation" else 1.0
    assert rules_broken(mechanism=name, sensitivity=norm) == []
    assert rules_broken(mechanism=name, sensitivity=norm / 2) == ["mechanism.sensitivity"]
    assert rules_broken(mechanism=name, sensitivity=norm, count=2) == [
        "mechanism.most_steps_per_round"
    ]


def test_without_catalogue_keys_no_statistic_leaves(
    make_policy: MakePolicy, rules_broken: Callable[..., Any]
) -> None:
    policy = make_policy(egress={"fields": ("name", "declared_users")})
    assert rules_broken(policy, mechanism="popularity") == ["egress.fields"]
    assert rules_broken(policy) == []


def test_no_noise_passes_only_where_the_policy_has_none(
    make_policy: MakePolicy, rules_broken: Callable[..., Any]
) -> None:
    assert rules_broken(noise_multiplier=0.0) == ["mechanism.least_noise_multiplier"]
    policy = make_policy(None, mechanism={"noise": "none"})
    assert rules_broken(policy, noise_multiplier=0.0, noise="none") == []
    assert rules_broken(policy) == ["mechanism.noise"]


def test_rounds_are_counted_over_the_24_hours_before(
    make_policy: MakePolicy, rules_broken: Callable[..., Any], intend: Intend, plan: PrivacyPlan
) -> None:
    policy, past = make_policy(mechanism={"most_rounds_per_day": 2}), Past()
    for number, hours in ((1, 0.0), (2, 1.0)):
        past.add(intend(STEP, plan, round=number), at(hours))
    assert rules_broken(policy, past, at(2.0), round=3) == ["mechanism.most_rounds_per_day"]
    # A round that is under way is no further one, and what is no round is not counted.
    assert rules_broken(policy, past, at(2.0), round=2) == []
    assert rules_broken(policy, past, at(2.0), round=9, mechanism="popularity") == []
    assert rules_broken(policy, past, at(23.99), round=3) == ["mechanism.most_rounds_per_day"]
    assert rules_broken(policy, past, at(24.0), round=3) == []


def test_rounds_of_all_runs_count_and_a_clock_set_back_forgets_none(
    make_policy: MakePolicy, rules_broken: Callable[..., Any], intend: Intend, plan: PrivacyPlan
) -> None:
    policy, past = make_policy(mechanism={"most_rounds_per_day": 1}), Past()
    past.add(intend(STEP, plan, run="other"), at(0.0))
    for hours in (1.0, -100.0):
        assert rules_broken(policy, past, at(hours)) == ["mechanism.most_rounds_per_day"]


def excess(mu: float, epsilon: float) -> float:
    """Delta of a Gaussian release at epsilon; Balle and Wang 2018, theorem 8."""
    return float(
        stats.norm.cdf(mu / 2 - epsilon / mu)
        - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    )


@pytest.mark.parametrize(
    ("share", "name"),
    [("statistics_share", "popularity"), ("adapter_share", "step"), ("evaluation_share", "step")],
)
def test_a_share_is_a_part_of_the_budget_in_mu_squared(
    make_policy: MakePolicy,
    rules_broken: Callable[..., Any],
    intend: Intend,
    plan: PrivacyPlan,
    share: str,
    name: str,
) -> None:
    name = "evaluation" if share == "evaluation_share" else name
    norm = math.sqrt(3.0) if name == "evaluation" else 1.0
    policy = make_policy(budget={share: 0.25})
    # mu of the one Gaussian release that takes epsilon 8 at delta 1e-4.
    mu = 2.0
    for _ in range(60):
        mu *= 1.01 if excess(mu, 8.0) < 1e-4 else 0.995
    least = 2.0 / mu
    fields = {"mechanism": name, "sensitivity": norm}
    assert rules_broken(policy, noise_multiplier=1.05 * least, **fields) == []
    assert rules_broken(policy, noise_multiplier=0.95 * least, **fields) == [f"budget.{share}"]
    past = Past()
    past.add(intend(STEP, plan, noise_multiplier=1.05 * least, **fields), at(0.0))
    assert rules_broken(policy, past, noise_multiplier=2 * least, **fields) == [f"budget.{share}"]


def test_popularity_and_cooccurrence_have_one_share(
    make_policy: MakePolicy, rules_broken: Callable[..., Any], intend: Intend, plan: PrivacyPlan
) -> None:
    policy, past = make_policy(budget={"statistics_share": 0.25}), Past()
    past.add(intend(STEP, plan, mechanism="popularity", noise_multiplier=1.3), at(0.0))
    fields = {"mechanism": "cooccurrence", "noise_multiplier": 1.3}
    assert rules_broken(policy, **fields) == []
    assert rules_broken(policy, past, **fields) == ["budget.statistics_share"]


def test_a_cost_without_noise_is_infinite(plan: PrivacyPlan) -> None:
    assert math.isinf(mu_squared(Mechanism("step", 1.0, 0.0, 1.0).event()))
    assert mu_squared(Mechanism("step", 1.0, 2.0, 1.0).event(8)) == pytest.approx(2.0)


def test_a_run_keeps_to_the_plan_it_began_with(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan
) -> None:
    policy, past = make_policy(), Past()
    past.add(intend(plan.mechanism("popularity"), plan, round=0), at(0.0))
    other = dataclasses.replace(plan, steps=2)
    found = judge_plan(policy, other, intend(plan.mechanism("step"), other), past)
    assert [refusal.rule for refusal in found] == ["plan"]
    assert "began under another plan" in found[0].sentence
    assert judge_plan(policy, other, intend(plan.mechanism("step"), other, run="new"), past) == []


def test_a_plan_has_as_many_releases_as_it_says(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan
) -> None:
    policy, past, step = make_policy(), Past(), plan.mechanism("step")
    assert judge_plan(policy, plan, intend(step, plan, 3), past) == []
    assert [r.rule for r in judge_plan(policy, plan, intend(step, plan, 4), past)] == ["plan"]
    past.add(intend(plan.mechanism("popularity"), plan, round=0), at(0.0))
    again = intend(plan.mechanism("popularity"), plan, round=2)
    assert [r.rule for r in judge_plan(policy, plan, again, past)] == ["plan"]


def test_an_intent_of_another_mechanism_than_the_plans_is_refused(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan
) -> None:
    louder = dataclasses.replace(plan.mechanism("step"), noise_multiplier=0.9)
    found = judge_plan(make_policy(), plan, intend(louder, plan), Past())
    assert [refusal.rule for refusal in found] == ["plan"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"steps": 4}, "mechanism.most_steps_per_run"),
        ({"delta": 1.1e-4}, "budget.delta"),
    ],
)
def test_a_plan_beyond_the_policy_is_refused_as_a_whole(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan, change: dict[str, Any], rule: str
) -> None:
    greedy = dataclasses.replace(plan, **change)
    found = judge_plan(
        make_policy(), greedy, intend(greedy.mechanism("popularity"), greedy), Past()
    )
    assert [refusal.rule for refusal in found] == [rule]


def test_the_shares_of_a_whole_plan_are_judged_at_its_first_intent(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan
) -> None:
    # Each step alone would fit; three do not. The honest plan gives the adapter 2% of the budget.
    policy, past = make_policy(budget={"adapter_share": 0.015}), Past()
    first = intend(plan.mechanism("popularity"), plan, round=0)
    found = judge_plan(policy, plan, first, past)
    assert [refusal.rule for refusal in found] == ["budget.adapter_share"]
    assert "the whole plan" in found[0].sentence
    assert judge(policy, first, at(0.0), past) == []

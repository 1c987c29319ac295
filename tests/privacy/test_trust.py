"""Whom a secure sum is trusted to: who counts in it, and whose noise is whole against whom."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from shared import wire
from shared.accounting import Event, mu_squared
from shared.entries import Intent, Opening
from shared.judge import Past, judge, judge_plan
from shared.plan import PrivacyPlan
from shared.policy import Policy
from shared.trust import most_colluders, phase_of

Intend = Callable[..., Intent]
MakePolicy = Callable[..., Policy]
Broken = Callable[..., list[str]]

NOON = "2026-05-01T12:00:00.000+00:00"
STRANGER = "5e" * 32
# 1 / sqrt(7 - 1): one of the seven that must be in a sum may be against the others.
SHARE = 0.408248290463863


def opening(key: str, purpose: str = "federation") -> Opening:
    return Opening(key, {}, "", "user", "add or remove one user", "", purpose)


@pytest.fixture
def broken(
    make_secure_policy: MakePolicy,
    intend: Intend,
    secure_plan: PrivacyPlan,
    roster: tuple[str, ...],
) -> Broken:
    """Names of the rules that an honest intent but for the fields given breaks."""

    def found(
        policy: Policy | None = None,
        past: Past | None = None,
        proposed: bool = False,
        **fields: Any,
    ) -> list[str]:
        step = secure_plan.mechanism("step")
        intent = intend(step, secure_plan, **{"participants": roster} | fields)
        before = past or Past()
        before.opening = before.opening or opening(roster[0])
        refusals = judge(policy or make_secure_policy(), intent, NOON, before, proposed)
        return [refusal.rule for refusal in refusals]

    return found


def test_an_honest_secure_sum_breaks_no_rule(broken: Broken) -> None:
    assert broken() == []


def test_a_sum_of_fewer_than_there_must_be_is_refused(
    broken: Broken, roster: tuple[str, ...], make_secure_policy: MakePolicy
) -> None:
    assert broken(participants=roster[:7]) == []
    assert "trust.least_participants" in broken(participants=roster[:6])
    assert "trust.least_participants" in broken(participants=())
    # One that is named twice is one.
    assert "trust.least_participants" in broken(participants=(*roster[:6], roster[0]))
    # Also where the plan or the policy alone asks for more.
    assert broken(least_participants=6)[0] == "trust.least_participants"
    assert broken(make_secure_policy(least_participants=8)) == ["trust.least_participants"]
    assert broken(participants=roster[:7], least_participants=8)[0] == "trust.least_participants"


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: (*keys[:7], STRANGER),
        lambda keys: (*keys[:7], keys[6]),
        lambda keys: (*keys[:7], keys[7].upper()),
        lambda keys: (*keys[:7], keys[7][:-2]),
        lambda keys: keys[1:],
    ],
    ids=["a stranger", "one twice", "one in two spellings", "no key", "without this one"],
)
def test_only_those_count_who_are_named_and_each_once(
    broken: Broken, roster: tuple[str, ...], change: Callable[[tuple[str, ...]], Any]
) -> None:
    assert set(broken(participants=change(roster))) == {"trust.members"}


def test_in_a_federation_nobody_counts_who_is_not_named_and_in_an_experiment_anybody(
    broken: Broken, make_secure_policy: MakePolicy, roster: tuple[str, ...]
) -> None:
    policy, past = make_secure_policy(members=()), Past()
    assert broken(policy) == ["trust.members"]
    assert broken(policy, proposed=True, participants=()) == ["trust.members"]
    past.opening = opening(roster[0], "experiment")
    assert broken(policy, past) == []
    assert broken(policy, past, participants=(*roster[:7], STRANGER)) == []
    for odd in (roster[0].upper(), roster[7][:-1], roster[7] + "\n", ""):
        assert broken(policy, past, participants=(*roster[:7], odd)) == ["trust.members"]


def test_a_proposed_plan_has_no_participants_yet_but_its_figures_must_hold(
    broken: Broken, make_secure_policy: MakePolicy
) -> None:
    assert broken(proposed=True, participants=()) == []
    assert broken(make_secure_policy(colluders=2), proposed=True, participants=()) == [
        "trust.colluders"
    ]
    assert broken(make_secure_policy(least_participants=8), proposed=True, participants=()) == [
        "trust.least_participants"
    ]


def test_joint_needs_whole_noise_without_the_colluders(
    broken: Broken, make_secure_policy: MakePolicy
) -> None:
    lenient = make_secure_policy()
    lenient.mechanism.__dict__["least_noise_share"] = 0.1
    assert broken(lenient, noise_share=SHARE) == []
    assert broken(lenient, noise_share=0.9999 * SHARE) == ["trust.colluders"]
    # The server itself, without another organisation, is withstood by seven such parts.
    alone = make_secure_policy(colluders=0)
    alone.mechanism.__dict__["least_noise_share"] = 0.1
    assert broken(alone, noise_share=7**-0.5) == []
    assert broken(alone, noise_share=0.9999 * 7**-0.5) == ["trust.colluders"]
    # Where only the own noise counts, nobody else's must be there.
    own = make_secure_policy(binds="alone", colluders=6)
    own.mechanism.__dict__["least_noise_share"] = 0.1
    assert broken(own, noise_share=0.9 * SHARE) == []


def test_more_who_exchange_keys_than_a_sum_may_lose_are_refused(broken: Broken) -> None:
    # Ten with seven in the sum: nine honest, each calling three lost, could take out four.
    many = tuple(f"{number:02x}" * 32 for number in range(0xA0, 0xAA))
    policy = Policy.from_values(
        {
            "organisation": {"name": "house", "declared_users": 20},
            "budget": {"epsilon": 8.0, "delta": 1e-4},
            "mechanism": {
                "noise": "shared",
                "distribution": ("discrete",),
                "least_noise_share": 0.1,
                "least_noise_multiplier": 0.0,
            },
            "trust": {"binds": "joint", "least_participants": 7, "members": many},
        },
        "test",
    )
    assert broken(policy, participants=many[:9]) == []
    assert broken(policy, participants=many) == ["trust.colluders"]


@pytest.mark.parametrize(
    ("share", "least", "participants", "most"),
    [
        (SHARE, 7, 8, 1),
        (SHARE, 7, 9, 1),
        (SHARE, 7, 10, -1),
        (7**-0.5, 7, 8, 0),
        (0.3, 7, 8, -1),
        (2**-0.5, 3, 3, 1),
        # With noise in full only the protocol sets a bound: 2 * 7 > 8 + 5.
        (1.0, 7, 8, 5),
        (1.0, 2, 2, -1),
        (1.0, 10**400, 8, -1),
        (float("nan"), 7, 8, -1),
    ],
)
def test_how_many_a_sum_withstands(share: float, least: int, participants: int, most: int) -> None:
    assert most_colluders(share, least, participants) == most


def test_noise_for_a_sum_that_nothing_secures_is_for_experiments(
    broken: Broken, make_secure_policy: MakePolicy
) -> None:
    plain = {"aggregation": "plain", "least_participants": 1, "participants": ()}
    assert broken(**plain) == ["trust.simulated_sum"]
    assert broken(make_secure_policy(simulated_sum=True), **plain) == []
    # Whatever is not the one word for it is no secure sum.
    assert broken(aggregation="Secure") == ["trust.simulated_sum"]


def test_the_least_noise_is_of_the_figure_that_binds(
    broken: Broken, make_secure_policy: MakePolicy
) -> None:
    joint, alone = make_secure_policy(), make_secure_policy(binds="alone")
    for policy in (joint, alone):
        policy.mechanism.__dict__["least_noise_multiplier"] = 2.0
    assert broken(joint, noise_multiplier=2.0) == []
    assert broken(joint, noise_multiplier=1.99) == ["mechanism.least_noise_multiplier"]
    assert broken(alone, noise_multiplier=2.0) == ["mechanism.least_noise_multiplier"]
    assert broken(alone, noise_multiplier=5.0) == []


def test_a_share_of_the_budget_is_counted_by_the_figure_that_binds(
    broken: Broken,
    make_secure_policy: MakePolicy,
    intend: Intend,
    secure_plan: PrivacyPlan,
    roster: tuple[str, ...],
) -> None:
    # The steps have 2% of the plan; alone each costs six times as much in mu squared.
    step = secure_plan.mechanism("step")
    for binds, step_alone, three, whole in (
        ("joint", [], [], []),
        ("alone", [], ["budget.adapter_share"], ["budget.adapter_share"]),
    ):
        policy, past = make_secure_policy(binds=binds), Past()
        policy.budget.__dict__["adapter_share"] = 0.1
        assert broken(policy) == step_alone
        first = intend(step, secure_plan, participants=roster)
        assert [r.rule for r in judge_plan(policy, secure_plan, first, past)] == whole
        for number in (1, 2):
            past.add(intend(step, secure_plan, round=number, participants=roster), NOON)
        assert broken(policy, past, round=3) == three


def test_the_past_is_added_up_by_either_figure(
    intend: Intend, secure_plan: PrivacyPlan, plan: PrivacyPlan, roster: tuple[str, ...]
) -> None:
    past = Past()
    secure, own = secure_plan.mechanism("step"), plan.mechanism("step")
    past.add(intend(secure, secure_plan, run="one", participants=roster), NOON)
    past.add(intend(own, plan, run="two"), NOON)
    sigma, part = secure.noise_multiplier, secure.noise_multiplier * SHARE
    assert own.noise_multiplier == sigma
    assert past.events() == (Event(1.0, sigma, 2),)
    assert past.events(binds="alone") == (
        Event(1.0, pytest.approx(part, rel=1e-12)),
        Event(1.0, own.noise_multiplier),
    )
    assert past.run_events("one", "alone")[0].noise_multiplier == pytest.approx(part, rel=1e-12)
    assert past.events("", "alone") == past.events(binds="alone")
    assert past.events("nobody", "alone") == ()
    both = sigma**-2 + own.noise_multiplier**-2
    assert past.mu_squared("adapter_share") == pytest.approx(both)
    more = mu_squared(Event(1.0, part)) - mu_squared(Event(1.0, sigma))
    assert past.mu_squared("adapter_share", "alone") == pytest.approx(both + more)
    assert more == pytest.approx(5.0 * sigma**-2)


def test_earlier_releases_that_withstand_fewer_end_a_budget_that_counts_with_more(
    broken: Broken,
    make_secure_policy: MakePolicy,
    intend: Intend,
    secure_plan: PrivacyPlan,
    roster: tuple[str, ...],
) -> None:
    past = Past()
    weak = intend(
        secure_plan.mechanism("step"), secure_plan, noise_share=0.3, participants=roster, round=2
    )
    assert past.withstood is None
    past.add(weak, NOON)
    assert past.withstood == -1
    assert broken(past=past) == ["trust.colluders"]
    assert broken(make_secure_policy(binds="alone"), past) == []


def test_a_further_attempt_is_beyond_the_plan_and_counts_again(
    make_secure_policy: MakePolicy,
    intend: Intend,
    secure_plan: PrivacyPlan,
    roster: tuple[str, ...],
) -> None:
    policy, past = make_secure_policy(), Past()
    popularity = secure_plan.mechanism("popularity")
    first = intend(popularity, secure_plan, round=0, participants=roster)

    def rules(**fields: Any) -> list[str]:
        intent = dataclasses.replace(first, **fields)
        return [r.rule for r in judge_plan(policy, secure_plan, intent, past)]

    assert rules() == []
    past.add(first, NOON)
    assert past.repeats(first)
    assert rules() == []
    assert rules(round=1) == ["plan"]
    assert rules(run="run", mechanism="cooccurrence", **_of(secure_plan, "cooccurrence")) == []
    # A further attempt is no other release: not one of another size, and none that was seen plain.
    assert rules(count=2) == ["plan"]
    assert rules(aggregation="plain") == ["plan"]
    assert rules(least_participants=3) == ["plan"]
    assert rules(noise_share=1.0) == ["plan"]
    past.add(first, NOON)
    assert past.releases("run", "popularity") == 1
    assert past.events() == (Event(1.0, popularity.noise_multiplier, 2),)


def _of(plan: PrivacyPlan, name: str) -> dict[str, Any]:
    mechanism = plan.mechanism(name)
    return {
        "noise_multiplier": mechanism.noise_multiplier,
        "sensitivity": mechanism.sensitivity,
    }


def test_a_plain_release_has_no_further_attempt(
    make_policy: MakePolicy, intend: Intend, plan: PrivacyPlan
) -> None:
    past, first = Past(), intend(plan.mechanism("popularity"), plan, round=0)
    past.add(first, NOON)
    assert not past.repeats(first)
    assert [r.rule for r in judge_plan(make_policy(), plan, first, past)] == ["plan"]


def test_further_attempts_take_no_round_from_the_plan_and_count_as_steps_of_the_run(
    broken: Broken, intend: Intend, secure_plan: PrivacyPlan, roster: tuple[str, ...]
) -> None:
    past, step = Past(), secure_plan.mechanism("step")
    for number in (1, 1, 2):
        past.add(intend(step, secure_plan, round=number, participants=roster), NOON)
    assert (past.releases("run", "step"), past.steps("run")) == (2, 3)
    # The policy lets four steps pass: the third round is the fourth step.
    assert broken(past=past, round=3) == []
    past.add(intend(step, secure_plan, round=2, participants=roster), NOON)
    assert broken(past=past, round=3) == ["mechanism.most_steps_per_run"]


def test_every_phase_of_the_protocol_is_known_by_its_request() -> None:
    for kind, (phase, name) in wire.PHASE_OF.items():
        request = f"run/7/{kind.removeprefix('query.')}"
        assert phase_of(request) == (phase, f"run/7/{name}")
        assert phase_of(f"{request}/3") == (phase, f"run/7/{name}/3")
    assert len(wire.PHASE_OF) == 12
    for odd in ("run/7/step", "run/7/keys_step/0", "run/7/keys_step/01", "a/b/7/keys_step", "x"):
        assert phase_of(odd) == ("", "")

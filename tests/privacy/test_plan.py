"""One plan gives the sampler, the noise and the cost, and nothing else passes for a plan."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.accounting import Event
from shared.config import Config, parse_config
from shared.errors import PrivacyError
from shared.plan import Mechanism, Noise, PrivacyPlan, make_plan
from shared.randomness import from_seed


def configured(**privacy: Any) -> Config:
    training = privacy.pop("training", {"rounds": 4, "steps_per_round": 2})
    values = {"privacy": {"delta": 1e-5} | privacy, "training": training}
    return parse_config(values | {"aggregation": {"mode": "plain"}}, "test")


def secure(organisations: int, colluders: int = 1, **privacy: Any) -> PrivacyPlan:
    """A plan whose sums the server sees alone."""
    values = {
        "privacy": {"delta": 1e-5} | privacy,
        "training": {"rounds": 4},
        "partition": {"organisations": organisations},
        "aggregation": {"mode": "secure", "colluders": colluders},
    }
    return make_plan(parse_config(values, "test"), 100, organisations)


def budget_share(mechanism: Mechanism | None, count: int) -> float:
    assert mechanism is not None
    return count / mechanism.noise_multiplier**2


@pytest.mark.parametrize(("rate", "sigma"), [(0.25, 1.7), (1.0, 0.9)])
def test_sampler_noise_and_event_come_from_the_same_mechanism(rate: float, sigma: float) -> None:
    mechanism = Mechanism("step", rate, sigma, 2.0)
    assert mechanism.event(3) == Event(rate, sigma, 3)
    assert mechanism.deviation == sigma * 2.0
    same_stream = from_seed(1).generator.normal(0.0, sigma * 2.0, size=(5, 4))
    np.testing.assert_array_equal(mechanism.noise((5, 4), from_seed(1)), same_stream)
    entered = mechanism.sample(20_000, from_seed(2)).size / 20_000
    assert entered == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 2.0},
        {"sampling_rate": -0.1},
        {"sampling_rate": math.nan},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"sensitivity": 0.0},
        {"sensitivity": -1.0},
        {"sensitivity": math.inf},
        {"sensitivity": math.nan},
        {"noise_share": 0.0},
        {"noise_share": 1.5},
        {"noise_share": math.nan},
    ],
    ids=str,
)
def test_a_mechanism_out_of_range_is_refused(change: dict[str, Any]) -> None:
    good = Mechanism("step", 0.5, 1.0, 1.0)
    with pytest.raises(PrivacyError, match="step"):
        dataclasses.replace(good, **change)


def test_a_plan_survives_its_message(plan: PrivacyPlan) -> None:
    again = PrivacyPlan.from_json(plan.to_json())
    assert again == plan
    assert again.sha256 == plan.sha256
    assert again.events() == plan.events()


@settings(max_examples=50)
@given(
    rate=st.floats(1e-9, 1.0),
    sigma=st.floats(0.0, 1e9),
    bound=st.floats(1e-9, 1e9),
    share=st.floats(1e-9, 1.0),
)
def test_a_message_keeps_every_bit_of_a_plan(
    plan: PrivacyPlan, rate: float, sigma: float, bound: float, share: float
) -> None:
    step = Mechanism("step", rate, sigma, bound, share)
    sent = dataclasses.replace(plan, step=step)
    assert PrivacyPlan.from_json(sent.to_json()) == sent


def test_every_field_of_a_plan_is_in_its_hash(plan: PrivacyPlan) -> None:
    assert plan.step is not None
    others = [
        dataclasses.replace(plan, steps=plan.steps + 1),
        dataclasses.replace(plan, delta=plan.delta * 2),
        dataclasses.replace(plan, noise=Noise.SHARED),
        dataclasses.replace(plan, popularity=None),
        dataclasses.replace(plan, evaluation=Mechanism("evaluation", 1.0, 1.0, math.sqrt(3.0))),
        dataclasses.replace(
            plan, step=dataclasses.replace(plan.step, distribution="discrete", grid_bits=30)
        ),
        dataclasses.replace(
            plan, step=dataclasses.replace(plan.step, noise_multiplier=math.nextafter(1.0, 2.0))
        ),
    ]
    assert len({p.sha256 for p in [plan, *others]}) == 1 + len(others)
    whole = secure(8)
    others = [
        plan,
        dataclasses.replace(whole, least_participants=8),
        dataclasses.replace(whole, colluders=2),
        dataclasses.replace(whole, word_bytes=whole.word_bytes + 1),
    ]
    assert len({p.sha256 for p in [whole, *others]}) == 1 + len(others)
    assert PrivacyPlan.from_json(whole.to_json()) == whole


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "null", "3", '"plan"', "{}", '{"popularity": null}', "{" * 50],
)
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PrivacyError, match="cannot be read"):
        PrivacyPlan.from_json(text)


@pytest.mark.parametrize(
    "field",
    ["popularity", "step", "steps", "delta", "epsilon", "noise", "aggregation", "colluders"],
)
def test_a_plan_with_a_missing_field_is_refused(plan: PrivacyPlan, field: str) -> None:
    value = json.loads(plan.to_json())
    del value[field]
    with pytest.raises(PrivacyError, match=field):
        PrivacyPlan.from_json(json.dumps(value))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", "1"),
        ("noise_multiplier", None),
        ("sampling_rate", 0),
        ("sampling_rate", 2),
        ("sampling_rate", [0.5]),
        ("sensitivity", 0),
        ("sensitivity", math.nan),
        ("noise_share", 1e9),
        ("noise_share", -0.5),
        ("surprise", 1),
    ],
)
def test_a_plan_with_a_bad_mechanism_is_refused(plan: PrivacyPlan, field: str, bad: object) -> None:
    value = json.loads(plan.to_json())
    value["step"][field] = bad
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_json(json.dumps(value))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("noise", "loud"),
        ("adjacency", "replace one user"),
        ("steps", "many"),
        ("steps", math.nan),
        ("delta", "small"),
        ("epsilon", []),
        ("aggregation", "hidden"),
        ("aggregation", "secure"),
        ("least_participants", 7),
        ("least_participants", 1.0),
        ("colluders", 1),
        ("word_bytes", 4),
        ("step", "step"),
        ("step", [1, 2]),
    ],
)
def test_a_plan_with_a_bad_field_is_refused(plan: PrivacyPlan, field: str, bad: object) -> None:
    value = json.loads(plan.to_json()) | {field: bad}
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_json(json.dumps(value))


def test_a_plan_says_which_mechanism_it_lacks(plan: PrivacyPlan) -> None:
    with pytest.raises(PrivacyError, match="no mechanism 'evaluation'"):
        plan.mechanism("evaluation")


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    epsilon=st.sampled_from([0.5, 2.0, 8.0]),
    delta=st.sampled_from([1e-3, 1e-6]),
    rate=st.sampled_from([0.1, 0.5, 1.0, 1.0]),
    rounds=st.integers(0, 10),
    steps=st.integers(1, 3),
    cuts=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
)
def test_a_plan_keeps_to_its_budget(
    epsilon: float, delta: float, rate: float, rounds: int, steps: int, cuts: tuple[int, int, int]
) -> None:
    popularity, cooccurrence, adapter = (cut / sum(cuts) for cut in cuts)
    config = configured(
        epsilon=epsilon,
        delta=delta,
        popularity_share=popularity,
        cooccurrence_share=cooccurrence,
        adapter_share=adapter,
        training={"rounds": rounds, "steps_per_round": steps, "sampling_rate": rate},
    )
    plan = make_plan(config, users=100, organisations=3)
    assert plan.steps == rounds * steps
    assert 0.98 * epsilon < plan.spent() <= epsilon


def test_shares_are_shares_of_the_budget_in_squared_mu() -> None:
    plan = make_plan(
        configured(popularity_share=0.2, cooccurrence_share=0.3, adapter_share=0.5), 100, 1
    )
    parts = [
        budget_share(plan.popularity, 1),
        budget_share(plan.cooccurrence, 1),
        budget_share(plan.step, plan.steps),
    ]
    assert [part / sum(parts) for part in parts] == pytest.approx([0.2, 0.3, 0.5])


def test_a_part_without_a_share_is_not_released() -> None:
    plan = make_plan(
        configured(popularity_share=0.5, cooccurrence_share=0.0, adapter_share=0.5), 100, 1
    )
    assert plan.cooccurrence is None
    assert len(plan.events()) == 2


def test_without_rounds_the_statistics_have_the_whole_budget() -> None:
    plan = make_plan(configured(training={"rounds": 0}), 100, 1)
    assert plan.step is None
    assert plan.events(steps=7) == plan.events()
    assert 0.99 * 8.0 < plan.spent() <= 8.0


def test_rounds_without_a_share_are_refused() -> None:
    config = configured(popularity_share=0.5, cooccurrence_share=0.5, adapter_share=0.0)
    with pytest.raises(PrivacyError, match="adapter_share"):
        make_plan(config, 100, 1)


def test_a_plan_without_noise_claims_no_epsilon() -> None:
    plan = make_plan(configured(noise="none"), 100, 1)
    assert plan.epsilon is None
    assert math.isinf(plan.spent())
    assert all(event.noise_multiplier == 0.0 for event in plan.events())


def test_shared_noise_of_all_organisations_adds_up_to_the_planned_noise() -> None:
    own = make_plan(configured(noise="own"), 100, 9)
    shared = make_plan(configured(noise="shared"), 100, 9)
    assert shared.events() == own.events()
    for name in ("popularity", "cooccurrence", "step"):
        one = shared.mechanism(name).deviation
        assert math.sqrt(9 * one**2) == pytest.approx(own.mechanism(name).deviation)


@pytest.mark.parametrize(
    ("organisations", "colluders", "share"),
    [(3, 1, 2**-0.5), (8, 1, 6**-0.5), (8, 2, 5**-0.5), (8, 0, 7**-0.5), (24, 1, 20**-0.5)],
)
def test_in_a_secure_sum_those_that_are_neither_lost_nor_against_the_others_add_the_planned_noise(
    organisations: int, colluders: int, share: float
) -> None:
    # One in eight may be lost: of 8 there are 7 left, of 24 there are 21, of 3 there are 3.
    plan = secure(organisations, colluders)
    own = make_plan(configured(training={"rounds": 4}), 100, organisations)
    assert plan.events() == own.events()
    for mechanism in plan.mechanisms:
        assert mechanism.noise_share == pytest.approx(share, rel=1e-15)
        assert (mechanism.distribution, mechanism.grid_bits) == ("discrete", 23)
    assert plan.least_participants == {3: 3, 8: 7, 24: 21}[organisations]


def test_alone_counts_the_noise_of_one_organisation_only() -> None:
    plan = secure(8)
    assert plan.step is not None
    part = plan.step.noise_multiplier * 6**-0.5
    assert plan.step.event(2, "alone") == Event(1.0, pytest.approx(part, rel=1e-15), 2)
    joint = Event(1.0, pytest.approx(part * 6**0.5, rel=1e-15), 2)
    assert plan.step.event(2) == plan.step.event(2, "joint") == joint
    assert plan.spent(binds="alone") > 2.0 * plan.spent()
    own = secure(8, noise="own")
    assert own.events(binds="alone") == own.events()


@pytest.mark.parametrize(
    "change",
    [
        {"least_participants": 2},
        {"least_participants": 0},
        {"colluders": 7},
        {"colluders": -1},
        {"word_bytes": 0},
        {"word_bytes": 8},
        {"step": None, "popularity": Mechanism("popularity", 1.0, 2.0, 1.0)},
    ],
    ids=str,
)
def test_figures_of_a_secure_sum_that_do_not_hold_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        dataclasses.replace(secure(8), **change)


def test_own_noise_is_full_noise_however_many_organisations_there_are() -> None:
    one, many = (make_plan(configured(), 100, organisations) for organisations in (1, 50))
    assert one == many
    assert one.mechanism("step").noise_share == 1.0


def test_delta_defaults_to_less_than_one_over_the_users() -> None:
    plan = make_plan(configured(delta=0.0), 1000, 1)
    assert plan.delta == pytest.approx(1000**-1.1)


@pytest.mark.parametrize("done", [0, 3, 8])
def test_spending_grows_with_the_steps_done(done: int) -> None:
    plan = make_plan(configured(), 100, 1)
    spent: Callable[[int], float] = plan.spent
    assert (spent(done) < plan.spent()) == (done < plan.steps)


def test_an_evaluation_has_its_share_and_the_norm_of_its_row() -> None:
    shares = {"popularity_share": 0.2, "cooccurrence_share": 0.3, "adapter_share": 0.1}
    plan = make_plan(configured(**shares, evaluation_share=0.4), 100, 1)
    evaluation = plan.mechanism("evaluation")
    assert evaluation.sensitivity == math.sqrt(3.0)
    assert evaluation.deviation == evaluation.noise_multiplier * math.sqrt(3.0)
    assert budget_share(evaluation, 1) / budget_share(plan.popularity, 1) == pytest.approx(2.0)
    assert evaluation.event() in plan.events()
    assert make_plan(configured(), 100, 1).evaluation is None


def test_every_mechanism_draws_the_configured_noise() -> None:
    plan = make_plan(configured(distribution="discrete"), 100, 1)
    for name in ("popularity", "cooccurrence", "step"):
        assert plan.mechanism(name).distribution == "discrete"
        assert plan.mechanism(name).grid_bits == 30
    with pytest.raises(PrivacyError, match="no distribution"):
        dataclasses.replace(plan.mechanism("step"), distribution="laplace")


@pytest.mark.parametrize("field", ["sampling_rate", "noise_multiplier", "sensitivity"])
def test_a_figure_of_a_plan_is_a_float_however_it_is_written(plan: PrivacyPlan, field: str) -> None:
    """Ledgers keep floats as exact text: a whole number or a truth would not be read back."""
    value = json.loads(plan.to_json())
    value["step"][field] = 1
    read = PrivacyPlan.from_json(json.dumps(value)).mechanism("step")
    assert type(getattr(read, field)) is float
    value["step"][field] = True
    with pytest.raises(PrivacyError, match="True"):
        PrivacyPlan.from_json(json.dumps(value))

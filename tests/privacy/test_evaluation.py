"""Private evaluation: sums that one user moves by at most sqrt(3), and that leave only noised."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.agent import Agent
from client.evaluation import evaluation_sum
from server.evaluation import check_evaluation, private_evaluation
from shared.config import Config, parse_config
from shared.errors import ConfigError, FederationError, TacitError
from shared.histories import PrivateHistories
from shared.messages import Reply, Request
from shared.plan import Mechanism, PrivacyPlan, make_plan
from shared.scoring import Scorer

OpenAgent = Callable[..., AbstractContextManager[Agent]]
MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]
DeviationIs = Callable[[npt.NDArray[Any], float], bool]

CUTOFF = 10
SHARES = {"popularity_share": 0.5, "cooccurrence_share": 0.3, "adapter_share": 0.1}
EVALUATION = Mechanism("evaluation", 1.0, 2.0, math.sqrt(3.0))

# Those that the delivered popularity puts first, so that targets are hit now and then.
rows = st.lists(st.lists(st.integers(380, 399), min_size=0, max_size=6), min_size=1, max_size=6)


@pytest.fixture
def evaluated(make_config: Callable[..., Config]) -> PrivacyPlan:
    """A plan with an evaluation at the end."""
    return make_plan(make_config(**SHARES, evaluation_share=0.1), users=6, organisations=1)


@pytest.fixture(scope="module")
def scorer(open_agent: OpenAgent) -> Scorer:
    with open_agent() as agent:
        return agent.scorer()


def asked(plan: PrivacyPlan) -> Request:
    return Request("run", 4, plan, "model-of-the-test", {})


def plain_sum(scorer: Scorer, histories: PrivateHistories) -> npt.NDArray[np.float64]:
    """Hit, discounted gain and one for each user's last item, user by user."""
    total = np.zeros(3)
    for user in range(len(histories)):
        items = histories.row(user)
        if len(items) < 2:
            continue
        earlier = histories.select(np.array([user])).truncated(np.array([len(items) - 1]))
        scores = scorer.fused(earlier, np.array([0]))[0].astype(np.float64)
        target = items[-1]
        scores[[item for item in set(items[:-1].tolist()) if item != target]] = -np.inf
        better, equal = (scores > scores[target]).sum(), (scores == scores[target]).sum()
        rank = better + (equal + 1) / 2
        if rank <= CUTOFF:
            total += np.array([1.0, 1.0 / math.log2(rank + 1.0), 0.0])
        total[2] += 1.0
    return total


def test_the_sums_are_those_of_a_plain_loop(scorer: Scorer, make_histories: MakeHistories) -> None:
    random = np.random.default_rng(0)
    made = [random.integers(370, 400, size=n).tolist() for n in (2, 3, 5, 1, 0, 8, 13, 4, 9, 30)]
    histories = make_histories(made)
    expected = plain_sum(scorer, histories)
    found = evaluation_sum(scorer, histories, CUTOFF)
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0.0 < found[1] < found[0] < found[2] == pytest.approx(8.0)


@settings(max_examples=60, deadline=None)
@given(rows=rows, place=st.integers(0, 5))
def test_one_user_moves_the_sums_by_at_most_root_three(
    scorer: Scorer, make_histories: MakeHistories, rows: list[list[int]], place: int
) -> None:
    place %= len(rows)
    without = rows[:place] + rows[place + 1 :]
    whole, less = (evaluation_sum(scorer, make_histories(r), CUTOFF) for r in (rows, without))
    assert float(np.linalg.norm(whole - less)) <= math.sqrt(3.0)
    alone = evaluation_sum(scorer, make_histories([rows[place]]), CUTOFF)
    assert whole - less == pytest.approx(alone, abs=1e-9)


def test_a_cut_in_time_that_other_users_move_is_not_evaluated_in_private() -> None:
    """It lies at a share of all interactions: one user more moves the target of others."""
    privacy = {"popularity_share": 0.5, "cooccurrence_share": 0.4, "adapter_share": 0.0}
    values = {
        "privacy": privacy | {"evaluation_share": 0.1},
        "evaluation": {"protocol": "temporal"},
    }
    with pytest.raises(ConfigError, match=r"evaluation\.protocol = leave-one-out"):
        parse_config(values, "test")


def test_an_evaluation_carries_the_planned_noise(
    open_agent: OpenAgent, evaluated: PrivacyPlan, deviation_is: DeviationIs
) -> None:
    mechanism = evaluated.mechanism("evaluation")
    residuals = []
    for _ in range(20):
        with open_agent(**SHARES, evaluation_share=0.1) as agent:
            reply = agent.evaluate(asked(evaluated))
            exact = evaluation_sum(agent.scorer(), agent._histories, CUTOFF)
            residuals.append(reply.arrays["values"] - exact)
            assert agent.ledger.events() == (mechanism.event(),)
    assert deviation_is(np.stack(residuals), mechanism.noise_multiplier * math.sqrt(3.0))


def test_own_pairs_do_not_count_in_private_evaluation(open_agent: OpenAgent) -> None:
    """One user's row must depend on no other user's history."""
    with open_agent(**SHARES, evaluation_share=0.1) as agent:
        own = agent.config.personalisation.model_copy(
            update={"own_cooccurrence": 50.0, "least_users": 1}
        )
        delivered = agent.scorer()
        exact = evaluation_sum(delivered, agent._histories, CUTOFF)
        agent.config = agent.config.model_copy(update={"personalisation": own})
        asked_again = agent.scorer()
        assert asked_again.statistics is delivered.statistics
        assert evaluation_sum(asked_again, agent._histories, CUTOFF).tolist() == exact.tolist()


@pytest.mark.parametrize("rows", [[], [[]], [[3], [4]]], ids=["nobody", "no-items", "one-item"])
def test_an_organisation_with_nothing_to_evaluate_sends_noise(
    open_agent: OpenAgent, evaluated: PrivacyPlan, rows: list[list[int]]
) -> None:
    with open_agent(rows=rows, **SHARES, evaluation_share=0.1) as agent:
        values = agent.evaluate(asked(evaluated)).arrays["values"]
    assert values.shape == (3,)
    assert np.all(values != 0.0)


def test_a_repeated_evaluation_gets_the_stored_answer(
    open_agent: OpenAgent, evaluated: PrivacyPlan
) -> None:
    with open_agent(**SHARES, evaluation_share=0.1) as agent:
        first, second = (agent.evaluate(asked(evaluated)).arrays["values"] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        with pytest.raises(TacitError, match=r"\[plan\]"):
            agent.evaluate(dataclasses.replace(asked(evaluated), round=5))


def test_before_anything_was_delivered_an_evaluation_costs_nothing(
    open_agent: OpenAgent, evaluated: PrivacyPlan
) -> None:
    with open_agent(**SHARES, evaluation_share=0.1) as agent:
        (agent.directory / "delivered" / "statistics.safetensors").unlink()
        with pytest.raises(FederationError, match="no statistics were delivered"):
            agent.evaluate(asked(evaluated))
        assert agent.ledger.events() == ()


def sums(*values: float, users: int = 100) -> Reply:
    return Reply("house", users, 4, {"values": np.array(values, np.float32)})


def test_the_server_divides_the_sums_of_all_and_says_what_the_noise_does() -> None:
    found = private_evaluation([sums(30, 20, 100), sums(10, 4, 60)], EVALUATION)
    assert (found.hr, found.ndcg, found.users) == pytest.approx((0.25, 0.15, 160.0))
    noise = 2.0 * math.sqrt(3.0) * math.sqrt(2.0) / 160.0
    assert found.hr_deviation == pytest.approx(noise * math.sqrt(1.0 + 0.25**2))
    assert found.ndcg_deviation == pytest.approx(noise * math.sqrt(1.0 + 0.15**2))


def test_the_stated_deviation_is_that_of_the_estimate() -> None:
    """Over 4,000 draws the ratio of deviations strays by 1.1%: 6% is five deviations and bias."""
    random = np.random.default_rng(0)
    exact = np.array([30.0, 20.0, 100.0])
    draws = exact + random.normal(0.0, EVALUATION.deviation, size=(4000, 3))
    estimates = [private_evaluation([sums(*draw)], EVALUATION).hr for draw in draws]
    stated = private_evaluation([sums(*exact)], EVALUATION).hr_deviation
    assert float(np.std(estimates)) == pytest.approx(stated, rel=0.06)


def test_noise_that_drowns_the_users_is_told() -> None:
    with pytest.raises(FederationError, match=r"raise privacy\.evaluation_share"):
        private_evaluation([sums(1.0, 1.0, -3.0)], EVALUATION)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"values": np.zeros(2, np.float32)},
        {"values": np.zeros((1, 3), np.float32)},
        {"values": np.zeros(3)},
        {"values": np.full(3, np.nan, np.float32)},
        {"values": np.full(3, np.inf, np.float32)},
        {"values": np.full(3, 1e30, np.float32)},
        {"values": np.full(3, -1e30, np.float32)},
        {"values": np.zeros(3, np.float32), "more": np.zeros(1, np.float32)},
    ],
)
def test_sums_that_cannot_be_are_refused(arrays: dict[str, npt.NDArray[Any]]) -> None:
    with pytest.raises(FederationError, match="evaluation"):
        check_evaluation(Reply("house", 100, 4, arrays), EVALUATION)


def test_sums_of_all_declared_users_and_their_noise_are_not_refused() -> None:
    check_evaluation(sums(100, 100, 100 + 6 * EVALUATION.deviation), EVALUATION)
    check_evaluation(sums(0, 0, -6 * EVALUATION.deviation, users=1), EVALUATION)

"""A repeated attempt: free until masked vectors have left, and counted again from then on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.bundle import read_evidence
from audit.verify import verify_ledger
from shared.errors import FederationError
from tests.secure.houses import Houses, open_houses
from tests.secure.parts import secure_plan

# Popularity alone: no model is needed.
PLAN = secure_plan(4, 1, step=None, steps=0)
ALL = range(5)
NAMES = 5 * (tuple("abcde"),)
ROWS = 5 * (([0, 1, 2, 3], [4]),)


@pytest.fixture
def houses(folder: Path) -> Iterator[Houses]:
    """Five, of which four must be in a sum."""
    with open_houses(folder, PLAN, NAMES, ROWS) as opened:
        yield opened


def intents(houses: Houses, number: int) -> list[str]:
    """Requests for which a house has spent, in order."""
    ledger = houses.agents[number].ledger
    asked = [f"run/0/popularity{again}" for again in ("", "/1", "/2")]
    found = sorted((ledger.intent_of(name), name) for name in asked if ledger.intent_of(name))
    assert len(found) == len(ledger.intents())
    return [name for _, name in found]


@pytest.mark.parametrize("phase", ["keys", "shares"])
def test_an_attempt_that_fails_before_vectors_are_masked_costs_nothing(
    houses: Houses, phase: str
) -> None:
    houses.lost = {(phase, 0): {0, 1}}
    total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert len(total.names) == 5
    for number in ALL:
        assert intents(houses, number) == ["run/0/popularity/1"]
        assert houses.mechanisms(number)[-4:] == ["protocol", "protocol", "popularity", "protocol"]


def test_one_that_fails_afterwards_counts_again(houses: Houses) -> None:
    once = houses.agents[0].ledger.spent
    assert once() == 0.0
    houses.lost = {("masked", 0): {0, 1}}
    total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert len(total.names) == 5
    for number in ALL:
        assert intents(houses, number) == ["run/0/popularity", "run/0/popularity/1"]
        (event,) = houses.agents[number].ledger.events("joint")
        assert (event.noise_multiplier, event.count) == (2.0, 2)
        (event,) = houses.agents[number].ledger.events("alone")
        assert event.noise_multiplier == pytest.approx(2.0 / 3**0.5)
        assert event.count == 2


def test_it_is_refused_when_the_budget_is_spent(folder: Path) -> None:
    just_enough = PLAN.spent() * 1.0001
    with open_houses(folder, PLAN, NAMES, ROWS, just_enough) as houses:
        houses.lost = {("masked", 0): {0, 1}}
        with pytest.raises(FederationError, match="0 organisations sent a masked vector"):
            houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
        for number in ALL:
            assert intents(houses, number) == ["run/0/popularity"]
            refusals = houses.agents[number].ledger.refusals_of("run/0/popularity/1")
            assert [refusal.rule for refusal in refusals] == ["budget.epsilon"]


def test_the_ledger_has_who_took_part_and_all_that_left(houses: Houses) -> None:
    houses.lost = {("masked", 0): {3}}
    total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert total.names == ("house 0", "house 1", "house 2", "house 4")
    members = sorted(agent.ledger.key.public for agent in houses.agents)
    for number in ALL:
        (intent,) = houses.agents[number].ledger.intents()
        assert list(intent.participants) == members
        assert intent.noise_share == pytest.approx(3**-0.5)
        assert (intent.aggregation, intent.least_participants) == ("secure", 4)
        given = [] if number == 3 else ["protocol"]
        assert houses.mechanisms(number) == ["protocol", "protocol", "popularity", *given]


def test_the_ledgers_of_repeated_attempts_verify(houses: Houses) -> None:
    houses.lost = {("shares", 0): {0, 1}, ("masked", 1): {2, 3}}
    houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    for agent in houses.agents:
        assert len(agent.ledger.intents()) == 2
        found = verify_ledger(read_evidence(agent.ledger.path))
        assert [fault.sentence for fault in found.faults] == []


def test_a_server_that_begins_again_at_an_attempt_that_nobody_spent_on_gets_a_sum(
    houses: Houses,
) -> None:
    """It was killed in the second attempt; when it is back it knows nothing of the first."""
    houses.lost = {("shares", 0): {0, 1}, ("shares", 1): {0, 1}, ("shares", 2): {0, 1}}
    with pytest.raises(FederationError):
        houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    houses.lost = {}
    total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert len(total.names) == 5
    for number in ALL:
        assert houses.agents[number].ledger.refusals() == ()


def test_one_that_was_killed_after_vectors_had_left_goes_on_without_spending_again(
    houses: Houses,
) -> None:
    houses.lost = {("unmask", 0): set(ALL)}
    with pytest.raises(FederationError, match="0 organisations gave shares"):
        houses.strategy.sums.total(houses.grid, "popularity", {}, 0, repeat=False)
    houses.lost = {}
    total = houses.strategy.sums.total(houses.grid, "popularity", {}, 0)
    assert len(total.names) == 5
    for number in ALL:
        assert intents(houses, number) == ["run/0/popularity"]

"""kill -9 at an organisation in every stage of a round: no epsilon is lost or spent twice."""

import os
import signal

import pytest
from lab.federation import Federation, Run
from lab.house import House
from lab.processes import held, send, wait_until

pytestmark = pytest.mark.slow


def intended(house: House, run: Run, number: int) -> bool:
    """Whether the house has put its intent for a round on record."""
    return number in [intent.round for intent in house.intents(run.name)]


def answered(house: House, run: Run, number: int) -> bool:
    """Whether the house has put its answer to a round on record."""
    return f"{run.name}/{number}/step" in [request for request, _ in house.releases(run.name)]


def hold_agent_before_intent(house: House, run: Run, number: int) -> None:
    """Stop the agent between rounds, and wait until a courier stands at its door."""
    held(house.agent_process.pid)
    assert not intended(house, run, number)
    wait_until(house.couriers, f"round {number}'s courier came")


def hold_agent_in_training(house: House, run: Run, number: int) -> None:
    """Stop the agent after its intent for a round and before its answer."""
    run.wait_until(lambda: intended(house, run, number), f"intent of round {number}")
    held(house.agent_process.pid)
    assert not answered(house, run, number), "training was over before it could be stopped"


def restart_agent(house: House) -> None:
    house.agent_process.kill()
    house.start_agent()
    house.agent_ready()


def test_an_agent_that_is_killed_answers_after_its_restart_unless_it_had_spent_already(
    federation: Federation,
) -> None:
    films = federation.houses["films"]
    run = federation.run("training.rounds=3", "server.round_timeout_s=60.0")
    run.wait_for("statistics")
    hold_agent_before_intent(films, run, 1)
    restart_agent(films)
    run.wait_for_round(1)
    assert run.rounds()[1] == 3

    # Killed between intent and answer: what was spent is gone, and is not spent again.
    hold_agent_in_training(films, run, 2)
    restart_agent(films)
    assert run.finish() == 0, run.said()
    assert run.rounds() == {1: 3, 2: 2, 3: 3}
    assert [intent.round for intent in films.intents(run.name)] == [1, 2, 3]
    assert not answered(films, run, 2)
    assert any("has spent its budget already" in r.sentence for _, r in films.refusals(run.name))
    federation.sound(run)


def test_a_courier_that_is_killed_is_started_anew_and_gets_the_stored_answer(
    federation: Federation,
) -> None:
    films, books = federation.houses["films"], federation.houses["books"]
    run = federation.run("training.rounds=1", "server.round_timeout_s=120.0")
    stopped: dict[str, list[int]] = {}

    def hold_at_intent() -> bool:
        # One loses its courier while it trains; the other's courier must not carry the answer on.
        if "films" not in stopped and intended(films, run, 1):
            stopped["films"] = [films.agent_process.pid]
            held(films.agent_process.pid)
        if "books" not in stopped and intended(books, run, 1):
            stopped["books"] = books.couriers()
            for courier in stopped["books"]:
                held(courier)
        return len(stopped) == 2

    run.wait_until(hold_at_intent, "intents of round 1")
    assert not answered(films, run, 1), "training was over before it could be stopped"
    for courier in films.couriers():
        send(courier, signal.SIGKILL)
    os.kill(films.agent_process.pid, signal.SIGCONT)
    run.wait_until(lambda: answered(books, run, 1), "answer on record and held on its way")
    for courier in stopped["books"]:
        send(courier, signal.SIGKILL)
    restart_agent(books)
    assert run.finish() == 0, run.said()
    assert run.rounds() == {1: 3}
    for house in (films, books):
        assert [intent.round for intent in house.intents(run.name)] == [1]
        assert len(house.releases(run.name)) == 1
    federation.sound(run)


def test_a_supernode_that_is_killed_comes_back_under_the_same_key(federation: Federation) -> None:
    films = federation.houses["films"]
    run = federation.run("training.rounds=5", "server.round_timeout_s=30.0")
    hold_agent_in_training(films, run, 1)
    before = films.node_number()
    send(films.supernode(), signal.SIGKILL)
    os.kill(films.agent_process.pid, signal.SIGCONT)
    films.node_back(federation.address)
    assert films.node_number() == before
    assert run.finish() == 0, run.said()
    replies = run.rounds()
    assert replies[1] == 2, "its answer was lost with the SuperNode"
    assert replies[5] == 3, "it takes part again"
    federation.sound(run)

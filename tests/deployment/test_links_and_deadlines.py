"""A link that is cut, an organisation that is too slow, and a run with too few replies."""

import os
import signal

import pytest
from lab.federation import Federation
from lab.processes import held

pytestmark = pytest.mark.slow


def test_a_link_that_is_cut_and_restored_within_the_deadline_loses_nothing(
    federation: Federation,
) -> None:
    films = federation.houses["films"]
    run = federation.run("training.rounds=2", "server.round_timeout_s=60.0")
    run.wait_until(lambda: films.intents(run.name), "intent of round 1")
    films.host.cut()
    run.wait_until(lambda: films.releases(run.name), "answer on record behind the cut")
    assert not run.rounds()
    films.host.restore()
    assert run.finish() == 0, run.said()
    assert run.rounds() == {1: 3, 2: 3}
    federation.sound(run)


def test_a_late_answer_does_not_enter_the_next_round(federation: Federation) -> None:
    films = federation.houses["films"]
    run = federation.run("training.rounds=3", "server.round_timeout_s=12.0")
    run.wait_until(lambda: films.intents(run.name), "intent of round 1")
    held(films.agent_process.pid)
    run.wait_for_round(1)
    os.kill(films.agent_process.pid, signal.SIGCONT)
    assert run.finish() == 0, run.said()
    replies = run.rounds()
    assert replies[1] == 2
    # It answers round 1 at last, which nobody reads, and then the rounds that it is asked for.
    assert replies[3] == 3
    assert f"{run.name}/1/step" in [request for request, _ in films.releases(run.name)]
    assert all("an answer to round" not in event["reason"] for event in run.events("refused"))
    federation.sound(run)


def test_a_run_with_fewer_replies_than_it_needs_ends_with_the_reason_and_can_be_resumed(
    federation: Federation,
) -> None:
    books, tools = federation.houses["books"], federation.houses["tools"]
    run = federation.run("training.rounds=2", "server.round_timeout_s=12.0")
    run.wait_for_round(1)
    for house in (books, tools):
        held(house.agent_process.pid)
    assert run.finish() == 1
    assert "1 usable replies, 2 needed" in run.said()
    assert not (run.folder / "adapter").exists()
    federation.heal()
    resumed = federation.resume(run)
    assert resumed.finish() == 0, resumed.said()
    assert resumed.rounds()[2] == 3
    for house in federation.houses.values():
        assert [intent.round for intent in house.intents(run.name)] == [1, 2]
    federation.sound(resumed)

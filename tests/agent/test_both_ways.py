"""An agent answers the same whether it is in this process or behind its socket."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from randomgen import AESCounter

from client.courier import PATHS
from client.gate import Gate
from client.organisation import Organisation
from shared import messages
from shared.errors import RefusedError
from shared.messages import CALLS, KINDS, Reply
from shared.randomness import PrivateRandom
from shared.wire import PHASE_OF, AgentAccess
from tests.agent.house import CONVERSATION, NOISED, House, Server, reply_of


def held(agent: AgentAccess, server: Server) -> list[Reply]:
    """The replies of a whole run."""
    return [
        reply_of(agent.ask(kind, server.request(kind, number))) for kind, number in CONVERSATION
    ]


def bits(reply: Reply) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (v.dtype.str, v.shape, v.tobytes()) for n, v in reply.arrays.items()}


def test_every_kind_of_message_is_answered(way: Any, server: Server) -> None:
    # Those of a secure sum's phases are refused below, and answered in test_kills_secure.
    assert {kind for kind, _ in CONVERSATION} == set(KINDS) - set(PHASE_OF)
    for (kind, number), reply in zip(CONVERSATION, held(way, server), strict=True):
        assert (reply.name, reply.declared_users, reply.round) == ("house", 20, number)
        assert bool(reply.arrays) == (kind in NOISED)
        assert reply.head is not None
    assert way.house.refusals() == []
    assert [intent.mechanism for intent in way.house.intents()] == [
        "popularity",
        "cooccurrence",
        "step",
        "evaluation",
    ]
    assert {intent.federation for intent in way.house.intents()} == {server.key.public}


@pytest.mark.parametrize("kind", PHASE_OF)
def test_a_phase_of_a_secure_sum_is_refused_where_the_plan_has_none(
    way: Any, server: Server, kind: str
) -> None:
    with pytest.raises(RefusedError, match=r"\[plan\] the plan has no secure sum of "):
        way.ask(kind, server.request(kind))
    assert (way.house.rules(), way.house.intents()) == (["plan"], [])


def test_answers_are_equal_bit_for_bit_over_both_ways(
    make_house: Callable[..., House], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeatable() -> PrivateRandom:
        return PrivateRandom(np.random.Generator(AESCounter(seed=7)), secret=True)

    monkeypatch.setattr("client.releases.from_operating_system", repeatable)
    with closing(Organisation(make_house("here").directory)) as organisation:
        here = held(Gate(organisation), server)
    behind = make_house("there")
    with behind.agent("repeatable"):
        there = held(behind.access(), server)
    assert [bits(reply) for reply in here] == [bits(reply) for reply in there]
    assert any(reply.arrays for reply in here)


def test_two_agents_never_draw_the_same_noise(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    first, second = (
        reply_of(open_way(make_house(how), how).ask(kind, server.request(kind)))
        for kind in [messages.POPULARITY]
        for how in ("here", "socket")
    )
    assert bits(first)["keys"] == bits(second)["keys"]
    assert bits(first)["values"] != bits(second)["values"]


@pytest.mark.parametrize("kind", NOISED)
def test_a_repeated_request_gets_the_stored_answer_and_costs_nothing(
    way: Any, server: Server, kind: str
) -> None:
    for earlier, number in CONVERSATION:
        reply = reply_of(way.ask(earlier, server.request(earlier, number)))
        if earlier == kind:
            break
    spent = way.house.intents()
    again = reply_of(way.ask(kind, server.request(kind, number)))
    assert bits(again) == bits(reply)
    assert way.house.intents() == spent
    assert len(way.house.releases()) == len(spent)


def test_an_answer_outlives_the_process_that_gave_it(
    house: House, open_way: Callable[..., Any], server: Server
) -> None:
    request = server.request(messages.POPULARITY)
    with house.agent():
        given = reply_of(house.access().ask(messages.POPULARITY, request))
    here = open_way(house, "here")
    assert bits(reply_of(here.ask(messages.POPULARITY, request))) == bits(given)
    assert len(house.intents()) == 1


def test_a_refusal_is_told_in_the_same_words_over_both_ways(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    told = []
    for how in ("here", "socket"):
        house = make_house(how, egress={"releases": ("step",)})
        with pytest.raises(RefusedError) as refused:
            open_way(house, how).ask(messages.POPULARITY, server.request(messages.POPULARITY))
        told.append(str(refused.value))
        assert house.rules() == ["egress.releases"]
    assert told[0] == told[1]
    assert "[egress.releases]" in told[0]


def test_the_courier_knows_the_path_of_every_kind() -> None:
    assert {kind: call for call, kinds in CALLS.items() for kind in kinds} == PATHS

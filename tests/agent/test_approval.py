"""Whom a deployed agent answers: federations that were approved, for plans that were approved."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.gate import Gate, Resident
from shared import messages
from shared.config import parse_config
from shared.errors import RefusedError
from shared.messages import KINDS
from shared.plan import make_plan
from tests.agent.conftest import run_values
from tests.agent.house import House, Server, reply_of


@pytest.mark.parametrize("how", ["here", "socket"])
def test_an_agent_that_approved_nobody_answers_nobody(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server, how: str
) -> None:
    way = open_way(make_house(federations={"allowed": ()}), how)
    for kind in KINDS:
        with pytest.raises(RefusedError, match="tacit client approve"):
            way.ask(kind, server.request(kind))
    assert way.house.rules() == ["federations.allowed"] * len(KINDS)
    assert way.house.intents() == []


def test_an_agent_of_a_simulation_asks_for_no_approval(
    make_house: Callable[..., House], server: Server
) -> None:
    from contextlib import closing

    from client.organisation import Organisation

    house = make_house(federations={"allowed": ()})
    with closing(Organisation(house.directory)) as organisation:
        request = server.unsigned(messages.JOIN)
        agent: Agent = organisation.agent(messages.JOIN, request)
        # Settings of its own run, as a simulation's agent has them.
        here = dataclasses.replace(server, config=agent.config)
        gate = Gate(Resident(agent))
        assert reply_of(gate.ask(messages.JOIN, here.request(messages.JOIN))).name == "house"
        with pytest.raises(RefusedError, match="settings"):
            gate.ask(messages.JOIN, here.request(messages.JOIN, settings="{}"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_that_was_not_approved_is_refused_whatever_it_asks(
    way: Any, stranger: Server, kind: str
) -> None:
    with pytest.raises(RefusedError, match=r"federations\.allowed"):
        way.ask(kind, stranger.request(kind))
    assert way.house.rules() == ["federations.allowed"]
    assert way.house.computed() == 0


@pytest.mark.parametrize("digits", [8, 12, 64])
def test_a_plan_is_approved_by_the_first_digits_of_its_hash(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server, digits: int
) -> None:
    plans = ("0" * 64, server.plan.sha256[:digits])
    way = open_way(make_house(federations={"plans": plans}), "here")
    for kind in (messages.JOIN, messages.PLAN, messages.POPULARITY):
        assert reply_of(way.ask(kind, server.request(kind)))


def test_a_plan_that_was_not_approved_is_refused_and_a_join_is_not(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    way = open_way(make_house(federations={"plans": ("0" * 8,)}), "here")
    # A join carries no plan: it comes before there is one.
    assert reply_of(way.ask(messages.JOIN, server.request(messages.JOIN, plan=None)))
    for kind in KINDS:
        with pytest.raises(RefusedError, match=r"federations\.plans"):
            way.ask(kind, server.request(kind))
    assert way.house.intents() == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != messages.JOIN])
def test_leaving_the_plan_out_is_no_way_around_its_approval(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server, kind: str
) -> None:
    way = open_way(make_house(federations={"plans": ("0" * 8,)}), "here")
    with pytest.raises(RefusedError):
        way.ask(kind, server.request(kind, plan=None))
    assert not (way.house.directory / "delivered").exists()


def test_an_approval_takes_effect_while_the_agent_runs(
    way: Any, server: Server, stranger: Server
) -> None:
    with pytest.raises(RefusedError):
        way.ask(messages.JOIN, stranger.request(messages.JOIN))
    way.house.amend(federations={"allowed": (server.key.public, stranger.key.public)})
    assert reply_of(way.ask(messages.JOIN, stranger.request(messages.JOIN)))
    assert reply_of(way.ask(messages.JOIN, server.request(messages.JOIN)))


def test_an_approval_taken_back_takes_effect_with_the_next_request(
    way: Any, server: Server, stranger: Server
) -> None:
    request = server.request(messages.POPULARITY)
    assert reply_of(way.ask(messages.POPULARITY, request)).arrays
    way.house.amend(federations={"allowed": (stranger.key.public,)})
    # Its stored answer too.
    for kind in KINDS:
        with pytest.raises(RefusedError, match=r"federations\.allowed"):
            way.ask(kind, server.request(kind))
    assert len(way.house.intents()) == 1


def test_a_tighter_budget_takes_effect_in_the_middle_of_a_run(way: Any, server: Server) -> None:
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    way.house.amend(budget={"epsilon": 0.5})
    with pytest.raises(RefusedError, match=r"budget\.epsilon"):
        way.ask(messages.COOCCURRENCE, server.request(messages.COOCCURRENCE))
    assert len(way.house.intents()) == 1


def test_a_policy_file_that_is_not_on_record_lets_nothing_more_happen(
    way: Any, server: Server, stranger: Server
) -> None:
    """Who can write the file but does not sign the ledger approves nobody."""
    path = way.house.directory / "policy.toml"
    path.write_text(path.read_text().replace(server.key.public, stranger.key.public))
    with pytest.raises(RefusedError, match=r"federations\.allowed"):
        way.ask(messages.JOIN, stranger.request(messages.JOIN))


def test_where_no_member_was_approved_no_secure_sum_is_planned(
    base: Path, make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    values = run_values(base) | {"partition": {"organisations": 3}}
    config = parse_config(values, "test")
    secure = dataclasses.replace(server, config=config, plan=make_plan(config, 60, 3))
    assert secure.plan.secure
    way = open_way(make_house(mechanism={"noise": "shared", "least_noise_share": 0.7}), "here")
    for kind in KINDS[1:]:
        with pytest.raises(RefusedError, match="tacit client approve --member"):
            way.ask(kind, secure.request(kind))
    assert set(way.house.rules()) == {"trust.members"}
    assert way.house.intents() == []

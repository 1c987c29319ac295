"""One pair of apps on every engine: in this process, on Ray, and where ``flwr run`` puts them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client.app
from client.data.store import read_store
from client.directory import agent_for, release
from shared.config import Config, to_run_config
from shared.keys import SigningKey
from shared.messages import JOIN, Request, pack_request, signed, unpack_reply
from shared.settings import shared_settings
from simulations.engine import InProcessGrid
from simulations.federate import federate
from simulations.world import World

MakeConfig = Callable[..., Config]


@pytest.mark.slow
def test_ray_gives_the_adapter_of_the_in_process_engine_to_the_last_bit(
    world: World, make_config: MakeConfig, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the Ray engine needs tacit[ray]")
    here = make_config(privacy={"noise": "none"})
    there = make_config(privacy={"noise": "none"}, run={"engine": "ray", "threads": 1})
    # Workers import the apps from this repository, whatever folder the tests were started in.
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        on_ray = federate(world, there, tmp_path / "ray", "run")
    in_process = federate(world, here, tmp_path / "here", "run")
    assert on_ray.adapter is not None
    assert in_process.adapter is not None
    assert on_ray.adapter.keys() == in_process.adapter.keys()
    for name, value in in_process.adapter.items():
        assert on_ray.adapter[name].tobytes() == value.tobytes()
    assert np.array_equal(on_ray.statistics.transition, in_process.statistics.transition)


def node(config: Config, number: int, run_id: int = 77) -> Context:
    """What a node of ``flwr run`` gives its ClientApp: no folder of tacit's in the run config."""
    return Context(
        run_id=run_id,
        node_id=100 + number,
        node_config={"partition-id": number, "num-partitions": 2},
        state=RecordDict(),
        run_config=to_run_config(config),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TACIT_HOME", str(tmp_path))
    return tmp_path


def test_a_node_without_a_run_folder_makes_its_own(home: Path, make_config: MakeConfig) -> None:
    agent = agent_for(node(make_config(), 1))
    try:
        assert agent.directory == home / "runs" / "flower-77" / "organisations" / "0002"
        made = {path.name for path in agent.directory.iterdir()}
        whole = {"histories.duckdb", "keys", "ledger.sqlite", "organisation.json"}
        whole |= {"policy.toml", "training.duckdb"}
        assert whole <= made
    finally:
        release(agent)


def test_two_partitions_hold_different_users_and_together_all_of_them(
    home: Path, make_config: MakeConfig, world: World
) -> None:
    config = make_config()
    agents = [agent_for(node(config, number)) for number in (0, 1)]
    try:
        users = [
            set(read_store(agent.directory / "histories.duckdb")[1].user_ids) for agent in agents
        ]
    finally:
        for agent in agents:
            release(agent)
    assert users[0].isdisjoint(users[1])
    assert users[0] | users[1] == set(world.dataset.histories.user_ids)
    assert [agent.identity.declared_users for agent in agents] == [len(u) for u in users]


def test_a_node_is_given_the_same_agent_for_every_message(
    home: Path, make_config: MakeConfig
) -> None:
    agent = agent_for(node(make_config(), 0))
    try:
        assert agent_for(node(make_config(), 0)) is agent
    finally:
        release(agent)


def test_a_restarted_node_opens_the_folder_that_it_made(
    home: Path, make_config: MakeConfig
) -> None:
    first = agent_for(node(make_config(), 0))
    release(first)
    made = (first.directory / "training.duckdb").stat().st_mtime_ns
    second = agent_for(node(make_config(), 0))
    try:
        assert second is not first
        assert second.identity == first.identity
        assert (second.directory / "training.duckdb").stat().st_mtime_ns == made
    finally:
        release(second)


def test_what_may_be_trained_on_leaves_the_last_two_items_of_every_user_out(
    home: Path, make_config: MakeConfig
) -> None:
    agent = agent_for(node(make_config(), 0))
    try:
        whole = read_store(agent.directory / "histories.duckdb")[1]
        training = read_store(agent.directory / "training.duckdb")[1]
    finally:
        release(agent)
    assert (whole.lengths - training.lengths).tolist() == [2] * len(whole)


def test_the_client_app_answers_a_join_with_public_figures_alone(
    home: Path, make_config: MakeConfig
) -> None:
    config = make_config()
    context = node(config, 0)
    InProcessGrid(client.app.app, {}, 1)  # Says whose process this is; messages ask for it.
    request = Request("run", 0, None, "", {}, settings=shared_settings(config))
    asked = signed(JOIN, request, SigningKey.load_or_create(home / "server.pem"))
    message = Message(pack_request(asked), dst_node_id=100, message_type=JOIN)
    message.metadata.__dict__["_message_id"] = "1"
    try:
        reply = unpack_reply(client.app.app(message, context).content, 0)
        assert (reply.name, reply.arrays) == ("org-1", {})
        assert reply.declared_users == 30
    finally:
        release(agent_for(context))

"""What an agent answers carries the planned noise, and a malformed request costs nothing."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from client.agent import Agent
from client.resources import Resources
from client.trainer import Update, private_steps
from shared.adapters import load_arrays
from shared.chain import countersign
from shared.config import Config
from shared.errors import FederationError, PrivacyError, RefusedError
from shared.keys import SigningKey
from shared.messages import Request
from shared.plan import Mechanism, PrivacyPlan, make_plan
from shared.randomness import from_seed
from shared.statistics import cooccurrence_sum, popularity_sum
from shared.wire import arrays_sha256, halved, widened

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]
DeviationIs = Callable[[npt.NDArray[Any], float], bool]


def asked(plan: PrivacyPlan | None, arrays: Arrays, number: int = 1) -> Request:
    return Request("run", number, plan, "model-of-the-test", arrays)


def untouched(agent: Agent) -> bool:
    return agent.ledger.events() == () and agent.ledger.releases() == ()


def test_popularity_carries_the_planned_noise(
    agent: Agent, plan: PrivacyPlan, deviation_is: DeviationIs
) -> None:
    reply = agent.popularity(asked(plan, {}, 0))
    np.testing.assert_array_equal(reply.arrays["keys"], agent.catalogue.key_hashes)
    exact = popularity_sum(agent._training, len(agent.catalogue))
    assert deviation_is(reply.arrays["values"] - exact, plan.mechanism("popularity").deviation)


def test_cooccurrence_carries_the_planned_noise(
    agent: Agent, plan: PrivacyPlan, deviation_is: DeviationIs
) -> None:
    top = np.arange(60)[::-1]
    reply = agent.cooccurrence(asked(plan, {"keys": agent.catalogue.key_hashes[top]}, 0))
    exact = cooccurrence_sum(agent._training, top, agent.config.statistics)
    assert deviation_is(reply.arrays["values"] - exact, plan.mechanism("cooccurrence").deviation)


def test_an_update_carries_the_planned_noise_over_the_declared_size(
    agent: Agent,
    plan: PrivacyPlan,
    adapter: Arrays,
    resources: Resources,
    deviation_is: DeviationIs,
) -> None:
    reply = agent.train(asked(plan, adapter))
    load_arrays(resources.trainable.model, adapter)
    silent = dataclasses.replace(plan.mechanism("step"), noise_multiplier=0.0)
    clean = private_steps(
        resources.trainable,
        agent._training,
        torch.from_numpy(resources.vectors),
        torch.from_numpy(agent.statistics().log_popularity).float(),
        silent,
        1,
        agent.identity.declared_users,
        agent.config.model.window,
        agent.config.privacy.clipping,
        agent.config.training,
        from_seed(0),
    )
    noise = [(reply.arrays[n] - clean.arrays[n]).ravel() for n in clean.arrays]
    deviation = plan.mechanism("step").noise_multiplier / agent.identity.declared_users
    assert deviation_is(np.concatenate(noise), deviation)


def test_an_adapter_in_float16_gets_the_update_that_was_noised_and_then_rounded(
    open_agent: OpenAgent, plan: PrivacyPlan, adapter: Arrays
) -> None:
    sent = halved(adapter)
    with open_agent(noise_seed=5) as one, open_agent(noise_seed=5) as other:
        whole, half = one.train(asked(plan, widened(sent))), other.train(asked(plan, sent))
    assert arrays_sha256(half.arrays) == arrays_sha256(halved(whole.arrays))


def test_a_stored_answer_is_not_for_who_has_seen_another_ledger(
    open_agent: OpenAgent, plan: PrivacyPlan, adapter: Arrays, tmp_path: Path
) -> None:
    server = SigningKey.load_or_create(tmp_path / "server.pem")
    request = asked(plan, adapter)
    with open_agent() as agent, open_agent() as other:
        agent.train(request)
        foreign = countersign(other.ledger.head(), "run", server)
        with pytest.raises(PrivacyError, match="not in this ledger"):
            agent.train(dataclasses.replace(request, anchor=foreign))


def test_the_ledger_has_what_was_sent_in_float16_and_what_came(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays
) -> None:
    sent = halved(adapter)
    reply = agent.train(asked(plan, sent))
    release, intent = agent.ledger.releases()[-1], agent.ledger.intents()[-1]
    assert release.sha256 == arrays_sha256(reply.arrays)
    assert release.size_bytes == sum(v.size for v in adapter.values()) * 2
    assert all(" float16 " in line for line in release.arrays)
    assert intent.adapter_before == arrays_sha256(sent)


def test_an_adapter_of_which_a_part_is_float16_costs_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    name = next(iter(adapter))
    with pytest.raises(FederationError, match=name):
        agent.train(asked(plan, adapter | {name: adapter[name].astype(np.float16)}))
    assert trained == []
    assert untouched(agent)


def test_asking_for_an_item_twice_gets_it_once(agent: Agent, plan: PrivacyPlan) -> None:
    keys = agent.catalogue.key_hashes[[4, 2, 4, 4, 2]]
    reply = agent.cooccurrence(asked(plan, {"keys": keys}, 0))
    assert reply.arrays["keys"].tolist() == keys[:2].tolist()
    assert reply.arrays["values"].shape == (1,)


def test_unknown_items_are_left_out(agent: Agent, plan: PrivacyPlan) -> None:
    keys = np.array([1, 2, 3], dtype=np.uint64)
    assert agent.cooccurrence(asked(plan, {"keys": keys}, 0)).arrays["values"].size == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-1],
        lambda value: value.astype(np.float64),
        lambda value: np.full_like(value, np.nan),
        lambda value: np.where(np.arange(value.shape[1]) == 0, np.float32(np.inf), value),
    ],
    ids=["shape", "dtype", "nan", "inf"],
)
def test_a_malformed_adapter_costs_nothing(
    agent: Agent,
    plan: PrivacyPlan,
    adapter: Arrays,
    trained: list[int],
    spoil: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
) -> None:
    name = next(iter(adapter))
    with pytest.raises(FederationError, match=name):
        agent.train(asked(plan, adapter | {name: spoil(adapter[name])}))
    assert trained == []
    assert untouched(agent)


def test_missing_and_surplus_arrays_cost_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    name = next(iter(adapter))
    without = {n: v for n, v in adapter.items() if n != name}
    for arrays in (without, adapter | {"surplus": adapter[name]}, {}):
        with pytest.raises(FederationError, match="not expected"):
            agent.train(asked(plan, arrays))
    assert untouched(agent)


def test_an_adapter_of_another_model_costs_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    request = dataclasses.replace(asked(plan, adapter), model_sha256="another")
    with pytest.raises(RefusedError, match=r"\[model\].*same base"):
        agent.train(request)
    assert untouched(agent)


@pytest.mark.parametrize("keys", [None, np.arange(3), np.zeros((2, 2), dtype=np.uint64)])
def test_malformed_items_cost_nothing(
    agent: Agent, plan: PrivacyPlan, keys: npt.NDArray[Any] | None
) -> None:
    with pytest.raises(FederationError, match="keys of uint64"):
        agent.cooccurrence(asked(plan, {} if keys is None else {"keys": keys}, 0))
    assert untouched(agent)


def test_broken_rows_stay_at_home(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.agent.private_steps", lambda **_: Update(adapter, 5))
    reply = agent.train(asked(plan, adapter))
    assert reply.arrays.keys() == adapter.keys()
    assert reply.declared_users == agent.identity.declared_users


@pytest.mark.parametrize("options", [{"noise_seed": 5}, {"noise_seed": 0}])
def test_seeded_noise_is_marked_not_private(
    open_agent: OpenAgent, plan: PrivacyPlan, options: dict[str, Any]
) -> None:
    with open_agent(**options) as agent:
        agent.popularity(asked(plan, {}, 0))
        assert not agent.ledger.private()


def test_noise_of_the_operating_system_is_private_and_fresh(
    open_agent: OpenAgent, plan: PrivacyPlan
) -> None:
    values = []
    for _ in range(2):
        with open_agent() as agent:
            values.append(agent.popularity(asked(plan, {}, 0)).arrays["values"])
            assert agent.ledger.private()
    assert not np.isclose(values[0], values[1]).any()


def test_a_run_without_noise_is_marked_not_private(
    open_agent: OpenAgent, make_config: Callable[..., Config]
) -> None:
    silent = make_plan(make_config(noise="none"), 6, 1)
    with open_agent(epsilon=None, noise="none") as agent:
        agent.popularity(asked(silent, {}, 0))
        assert not agent.ledger.private()


def test_a_request_without_a_plan_is_refused(agent: Agent) -> None:
    with pytest.raises(PrivacyError, match="no privacy plan"):
        agent.popularity(asked(None, {}, 0))
    assert untouched(agent)


def test_a_plan_that_names_a_louder_mechanism_like_another_gains_nothing(
    plan: PrivacyPlan,
) -> None:
    with pytest.raises(PrivacyError, match="popularity is a mechanism named 'step'"):
        dataclasses.replace(plan, popularity=Mechanism("step", 1.0, 0.2, 1.0))

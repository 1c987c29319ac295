"""An agent spends before it computes, answers a request once, and believes no server."""

import dataclasses
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from client import agent as module
from client.agent import Agent, Resources
from client.ledger import Release
from client.trainer import Update, private_steps
from shared.adapters import arrays_sha256, load_arrays
from shared.config import Config
from shared.errors import FederationError, PrivacyError, TacitError
from shared.messages import Reply, Request, size_bytes
from shared.plan import Mechanism, Noise, PrivacyPlan, make_plan
from shared.randomness import from_seed
from shared.statistics import cooccurrence_sum, popularity_sum

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]
DeviationIs = Callable[[npt.NDArray[Any], float], bool]


@pytest.fixture
def agent(open_agent: OpenAgent) -> Iterator[Agent]:
    with open_agent() as opened:
        yield opened


@pytest.fixture
def adapter(resources: Resources) -> Arrays:
    """An adapter that fits."""
    random = np.random.default_rng(3)
    return {
        name: random.normal(0.0, 0.1, tuple(p.shape)).astype(np.float32)
        for name, p in resources.trainable.model.trained.items()
    }


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, adapter: Arrays) -> list[int]:
    """Stands in for training, which a test of the ledger need not do; keeps the steps asked for."""
    calls: list[int] = []

    def record(*args: Any) -> Update:
        calls.append(args[5])
        return Update({name: value + len(calls) for name, value in adapter.items()}, 0)

    monkeypatch.setattr(module, "private_steps", record)
    return calls


def asked(plan: PrivacyPlan | None, arrays: Arrays, number: int = 1, run: str = "run") -> Request:
    return Request(run, number, plan, "model-of-the-test", arrays)


def with_statistics(agent: Agent) -> Agent:
    keys = agent.catalogue.key_hashes
    agent.deliver_statistics(
        asked(
            None,
            {
                "keys": keys,
                "log_popularity": np.linspace(-1.0, 1.0, len(keys)),
                "top": np.arange(3),
                "transition": np.zeros((3, 3)),
                "floor": np.array([-2.0]),
            },
        )
    )
    return agent


def entries_on_disk(agent: Agent) -> list[tuple[str, str]]:
    """Kind and request of every entry, as another process would read them."""
    with closing(sqlite3.connect(agent.ledger.path)) as connection:
        return list(
            connection.execute("SELECT kind, request FROM entries WHERE kind != 'open'").fetchall()
        )


def same(first: Reply, second: Reply) -> bool:
    return first.arrays.keys() == second.arrays.keys() and all(
        first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays
    )


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _ask_and_die(open_agent: OpenAgent, folder: Path, plan: PrivacyPlan) -> None:
    module.popularity_sum = _die  # type: ignore[assignment]
    with open_agent(folder) as agent:
        agent.popularity(asked(plan, {}, 0))


def test_popularity_carries_the_planned_noise(
    agent: Agent, plan: PrivacyPlan, deviation_is: DeviationIs
) -> None:
    reply = agent.popularity(asked(plan, {}, 0))
    np.testing.assert_array_equal(reply.arrays["keys"], agent.catalogue.key_hashes)
    exact = popularity_sum(agent._histories, len(agent.catalogue))
    assert deviation_is(reply.arrays["values"] - exact, plan.mechanism("popularity").deviation)


def test_cooccurrence_carries_the_planned_noise(
    agent: Agent, plan: PrivacyPlan, deviation_is: DeviationIs
) -> None:
    top = np.arange(60)[::-1]
    reply = agent.cooccurrence(asked(plan, {"keys": agent.catalogue.key_hashes[top]}, 0))
    exact = cooccurrence_sum(agent._histories, top, agent.config.statistics)
    assert deviation_is(reply.arrays["values"] - exact, plan.mechanism("cooccurrence").deviation)


def test_an_update_carries_the_planned_noise_over_the_declared_size(
    agent: Agent,
    plan: PrivacyPlan,
    adapter: Arrays,
    resources: Resources,
    deviation_is: DeviationIs,
) -> None:
    reply = with_statistics(agent).train(asked(plan, adapter))
    load_arrays(resources.trainable.model, adapter)
    silent = dataclasses.replace(plan.mechanism("step"), noise_multiplier=0.0)
    clean = private_steps(
        resources.trainable,
        agent._histories,
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


def test_asking_for_an_item_twice_gets_it_once(agent: Agent, plan: PrivacyPlan) -> None:
    keys = agent.catalogue.key_hashes[[4, 2, 4, 4, 2]]
    reply = agent.cooccurrence(asked(plan, {"keys": keys}, 0))
    assert reply.arrays["keys"].tolist() == keys[:2].tolist()
    assert reply.arrays["values"].shape == (1,)


def test_unknown_items_are_left_out(agent: Agent, plan: PrivacyPlan) -> None:
    keys = np.array([1, 2, 3], dtype=np.uint64)
    assert agent.cooccurrence(asked(plan, {"keys": keys}, 0)).arrays["values"].size == 0


def test_spending_is_on_disk_before_training_starts(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look(*_: Any) -> Update:
        seen.append(entries_on_disk(agent))
        return Update(adapter, 0)

    monkeypatch.setattr(module, "private_steps", look)
    with_statistics(agent).train(asked(plan, adapter))
    assert seen == [[("intent", "run/1/step")]]
    assert entries_on_disk(agent) == [("intent", "run/1/step"), ("release", "run/1/step")]


@pytest.mark.parametrize("name", ["popularity", "cooccurrence"])
def test_spending_is_on_disk_before_a_statistic_is_summed(
    agent: Agent, plan: PrivacyPlan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look(*_: Any) -> npt.NDArray[np.float64]:
        seen.append(entries_on_disk(agent))
        return np.zeros(1)

    monkeypatch.setattr(module, f"{name}_sum", look)
    getattr(agent, name)(asked(plan, {"keys": agent.catalogue.key_hashes[:2]}, 0))
    assert seen == [[("intent", f"run/0/{name}")]]


def test_a_process_killed_while_it_computes_has_spent(
    open_agent: OpenAgent, plan: PrivacyPlan, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_ask_and_die, args=(open_agent, tmp_path, plan))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    with open_agent(tmp_path) as agent:
        assert agent.ledger.events() == (plan.mechanism("popularity").event(),)
        with pytest.raises(PrivacyError, match="already"):
            agent.popularity(asked(plan, {}, 0))
        assert agent.ledger.releases() == ()


def test_the_ledger_names_what_left(agent: Agent, plan: PrivacyPlan) -> None:
    reply = agent.popularity(asked(plan, {}, 0))
    assert agent.ledger.releases() == (
        Release(
            "popularity", "run/0/popularity", size_bytes(reply.arrays), arrays_sha256(reply.arrays)
        ),
    )


def test_a_replayed_training_gets_the_stored_answer_and_spends_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    request = asked(plan, adapter)
    first = with_statistics(agent).train(request)
    spent = agent.ledger.events()
    assert same(agent.train(request), first)
    assert trained == [1]
    assert agent.ledger.events() == spent


def test_a_replayed_statistic_has_the_same_noise_after_a_restart(
    open_agent: OpenAgent, plan: PrivacyPlan, tmp_path: Path
) -> None:
    with open_agent(tmp_path) as agent:
        first = agent.popularity(asked(plan, {}, 0))
    with open_agent(tmp_path) as agent:
        assert same(agent.popularity(asked(plan, {}, 0)), first)
        assert agent.ledger.events() == (plan.mechanism("popularity").event(),)


def test_a_known_request_with_another_adapter_trains_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    first = with_statistics(agent).train(asked(plan, adapter))
    other = {name: value + 1 for name, value in adapter.items()}
    assert same(agent.train(asked(plan, other)), first)
    assert trained == [1]


def test_an_old_request_is_refused_when_its_answer_is_gone(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    with_statistics(agent)
    for number in (1, 2):
        agent.train(asked(plan, adapter, number))
    with pytest.raises(PrivacyError, match="already"):
        agent.train(asked(plan, adapter, 1))
    assert trained == [1, 1]


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
        with_statistics(agent).train(asked(plan, adapter | {name: spoil(adapter[name])}))
    assert trained == []
    assert entries_on_disk(agent) == []


def test_missing_and_surplus_arrays_cost_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    name = next(iter(adapter))
    without = {n: v for n, v in adapter.items() if n != name}
    for arrays in (without, adapter | {"surplus": adapter[name]}, {}):
        with pytest.raises(FederationError, match="not expected"):
            with_statistics(agent).train(asked(plan, arrays))
    assert entries_on_disk(agent) == []


def test_an_adapter_of_another_model_costs_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    request = dataclasses.replace(asked(plan, adapter), model_sha256="another")
    with pytest.raises(FederationError, match="same base"):
        with_statistics(agent).train(request)
    assert entries_on_disk(agent) == []


@pytest.mark.parametrize("keys", [None, np.arange(3), np.zeros((2, 2), dtype=np.uint64)])
def test_malformed_items_cost_nothing(
    agent: Agent, plan: PrivacyPlan, keys: npt.NDArray[Any] | None
) -> None:
    with pytest.raises(FederationError, match="keys of uint64"):
        agent.cooccurrence(asked(plan, {} if keys is None else {"keys": keys}, 0))
    assert entries_on_disk(agent) == []


def test_an_answer_that_is_not_finite_is_spent_and_not_sent(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in adapter.items()}
    monkeypatch.setattr(module, "private_steps", lambda *_: Update(broken, 0))
    with pytest.raises(TacitError, match="not finite"):
        with_statistics(agent).train(asked(plan, adapter))
    assert entries_on_disk(agent) == [("intent", "run/1/step")]


def test_broken_rows_stay_at_home(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "private_steps", lambda *_: Update(adapter, 5))
    reply = with_statistics(agent).train(asked(plan, adapter))
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
    assert entries_on_disk(agent) == []


def test_a_plan_that_names_a_louder_mechanism_like_another_gains_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    posing = dataclasses.replace(plan, popularity=Mechanism("step", 1.0, 0.2, 1.0))
    with pytest.raises(PrivacyError, match="budget"):
        with_statistics(agent).train(asked(posing, adapter))
    assert trained == []
    assert posing.noise is Noise.OWN
    assert entries_on_disk(agent) == []

"""What a request costs is on disk before it is computed, and a request is computed once."""

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from client.agent import Agent
from client.trainer import Update
from shared.entries import Release
from shared.errors import PrivacyError, TacitError
from shared.messages import Reply, Request
from shared.plan import PrivacyPlan
from shared.wire import arrays_sha256, size_bytes

ITEMS = 400

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]


def asked(plan: PrivacyPlan | None, arrays: Arrays, number: int = 1) -> Request:
    return Request("run", number, plan, "model-of-the-test", arrays)


def records_on_disk(agent: Agent) -> list[tuple[str, str]]:
    """Kind and request of every record but the first, as another process would read them."""
    with closing(sqlite3.connect(agent.ledger.path)) as connection:
        return list(
            connection.execute("SELECT kind, request FROM records WHERE kind != 'open'").fetchall()
        )


def same(first: Reply, second: Reply) -> bool:
    return first.arrays.keys() == second.arrays.keys() and all(
        first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays
    )


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _ask_and_die(open_agent: OpenAgent, folder: Path, plan: PrivacyPlan) -> None:
    with patch("client.agent.popularity_sum", _die), open_agent(folder) as agent:
        agent.popularity(asked(plan, {}, 0))


def test_spending_is_on_disk_before_training_starts(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look(**_: Any) -> Update:
        seen.append(records_on_disk(agent))
        return Update(adapter, 0)

    monkeypatch.setattr("client.agent.private_steps", look)
    agent.train(asked(plan, adapter))
    assert seen == [[("intent", "run/1/step")]]
    assert records_on_disk(agent) == [("intent", "run/1/step"), ("release", "run/1/step")]


@pytest.mark.parametrize("name", ["popularity", "cooccurrence"])
def test_spending_is_on_disk_before_a_statistic_is_summed(
    agent: Agent, plan: PrivacyPlan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look(*_: Any) -> npt.NDArray[np.float64]:
        seen.append(records_on_disk(agent))
        return np.zeros(1)

    monkeypatch.setattr(f"client.agent.{name}_sum", look)
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
            "popularity",
            agent.ledger.intent_of("run/0/popularity"),
            arrays_sha256(reply.arrays),
            size_bytes(reply.arrays),
            (f"keys uint64 [{ITEMS}]", f"values float32 [{ITEMS}]"),
            ("name", "declared_users", "round", "head"),
        ),
    )


def test_a_replayed_training_gets_the_stored_answer_and_spends_nothing(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    request = asked(plan, adapter)
    first = agent.train(request)
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
    first = agent.train(asked(plan, adapter))
    other = {name: value + 1 for name, value in adapter.items()}
    assert same(agent.train(asked(plan, other)), first)
    assert trained == [1]


def test_an_old_request_is_refused_when_its_answer_is_gone(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, trained: list[int]
) -> None:
    for number in (1, 2):
        agent.train(asked(plan, adapter, number))
    with pytest.raises(PrivacyError, match="already"):
        agent.train(asked(plan, adapter, 1))
    assert trained == [1, 1]


def test_an_answer_that_is_not_finite_is_spent_and_not_sent(
    agent: Agent, plan: PrivacyPlan, adapter: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in adapter.items()}
    monkeypatch.setattr("client.agent.private_steps", lambda **_: Update(broken, 0))
    with pytest.raises(TacitError, match="the computation failed"):
        agent.train(asked(plan, adapter))
    assert records_on_disk(agent) == [("intent", "run/1/step"), ("refusal", "run/1/step")]

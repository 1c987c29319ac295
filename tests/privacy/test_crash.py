"""Whenever a process is killed, what it computed is spent, and what it spent is computed once."""

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from client import agent as agent_module
from client import releases as releases_module
from client.agent import Agent
from client.ledger import Ledger
from client.releases import Releases
from shared.chain import chain_faults, read_sealed
from shared.entries import Intent, Refusal, Release
from shared.errors import RefusedError
from shared.messages import Request
from shared.plan import Mechanism, PrivacyPlan
from shared.policy import Policy

OpenAgent = Callable[..., AbstractContextManager[Agent]]

REQUEST = "run/0/popularity"


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after(work: Callable[..., Any]) -> Callable[..., None]:
    """``work``, and then the end."""

    def worked(*arguments: Any, **named: Any) -> None:
        work(*arguments, **named)
        die()

    return worked


def dies_on(work: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A writer of records that ends the process once it has put one of this kind in its place."""

    def wrote(ledger: Ledger, written: str, *rest: Any) -> Any:
        made = work(ledger, written, *rest)
        return die() if written == kind else made

    return wrote


def half_written(arrays: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    path.write_bytes(b"half of an answer")
    die()


# Where the process is killed: what is put in which place, whether the budget is spent then, and
# whether the request is answered when it comes again.
POINTS: dict[str, tuple[Any, str, Any, bool, bool]] = {
    "before-the-intent": (Ledger, "reserve", die, False, True),
    "in-the-intents-transaction": (
        Ledger,
        "_append",
        dies_on(Ledger._append, "intent"),
        False,
        True,
    ),
    "after-the-intent": (Releases, "_compute", die, True, False),
    "inside-the-computation": (agent_module, "noised_sum", die, True, False),
    "after-the-computation": (Releases, "_compute", dies_after(Releases._compute), True, False),
    "before-the-answer-is-kept": (releases_module, "save_file", die, True, False),
    "while-the-answer-is-kept": (releases_module, "save_file", half_written, True, False),
    "before-the-release-is-recorded": (Ledger, "record_release", die, True, True),
    "in-the-releases-transaction": (
        Ledger,
        "_append",
        dies_on(Ledger._append, "release"),
        True,
        True,
    ),
    "after-the-release-is-recorded": (
        Ledger,
        "record_release",
        dies_after(Ledger.record_release),
        True,
        True,
    ),
    "before-the-reply-is-made": (Releases, "_reply", die, True, True),
}


def counted(folder: Path, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work``, with a byte in a file for each time that it is done."""

    def done(*arguments: Any) -> Any:
        with (folder / "computed").open("ab") as file:
            file.write(b".")
        return work(*arguments)

    return done


def computed(folder: Path) -> int:
    path = folder / "computed"
    return path.stat().st_size if path.exists() else 0


def _ask_and_die(open_agent: OpenAgent, folder: Path, plan: PrivacyPlan, point: str) -> None:
    where, name, deadly, _, _ = POINTS[point]
    with open_agent(folder) as agent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_module, "popularity_sum", counted(folder, agent_module.popularity_sum))
        patch.setattr(where, name, deadly)
        agent.popularity(Request("run", 0, plan, "", {}))


def killed(work: Callable[..., None], *arguments: Any) -> None:
    """Run in a process of its own, which must be killed."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_on_the_way_to_a_reply_loses_no_spending_and_computes_nothing_twice(
    open_agent: OpenAgent, plan: PrivacyPlan, tmp_path: Path, point: str
) -> None:
    *_, spent, answered = POINTS[point]
    killed(_ask_and_die, open_agent, tmp_path, plan, point)
    assert chain_faults(read_sealed(tmp_path / "ledger.sqlite")) == []
    once = computed(tmp_path)
    kept = tmp_path / "answers" / "popularity.safetensors"
    stored = load_file(kept) if kept.exists() else None
    with open_agent(tmp_path) as agent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            agent_module, "popularity_sum", counted(tmp_path, agent_module.popularity_sum)
        )
        assert len(agent.ledger.events()) == spent
        assert once <= spent
        request = Request("run", 0, plan, "", {})
        if answered:
            reply = agent.popularity(request)
            if stored is not None:
                assert same(reply.arrays, stored)
            assert same(agent.popularity(request).arrays, reply.arrays)
        else:
            with pytest.raises(RefusedError, match="has spent its budget already"):
                agent.popularity(request)
        assert agent.ledger.events() == (plan.mechanism("popularity").event(),)
        assert computed(tmp_path) == (once if spent else 1)
        assert len(agent.ledger.releases()) == answered
    assert chain_faults(read_sealed(tmp_path / "ledger.sqlite")) == []


def same(first: dict[str, npt.NDArray[Any]], second: dict[str, npt.NDArray[Any]]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def _spend_until_killed(
    opened: Callable[[], Ledger], make: Callable[[int], Intent], plan: PrivacyPlan, log: Path
) -> None:
    with opened() as ledger:
        first = len(ledger.intents())
        for number in range(first, 10_000):
            request = f"run/{number}/step"
            place = ledger.reserve(request, make(number), plan)
            with log.open("a") as file:
                file.write(f"{place}\n")
            ledger.record_release(request, Release("step", place, "ab" * 32, 8, (), ()))
            ledger.record_refusal(request, Refusal("rule", "sentence"))


def test_a_ledger_that_is_killed_at_any_time_holds_every_computation(
    make_policy: Callable[..., Policy],
    open_ledger: Callable[..., Ledger],
    intend: Callable[..., Intent],
    plan: PrivacyPlan,
    tmp_path: Path,
) -> None:
    step = Mechanism("step", 1.0, 1000.0, 1.0)
    whole = dataclasses.replace(plan, popularity=None, cooccurrence=None, step=step, steps=10_000)
    policy = make_policy(mechanism={"most_steps_per_run": 10_000, "most_rounds_per_day": 10_000})
    log = tmp_path / "computed"

    def opened() -> Ledger:
        return open_ledger(tmp_path, policy)

    def make(number: int) -> Intent:
        return intend(step, whole, round=number)

    # The accountants' answer for the whole plan is known to the children, which are forks.
    with opened() as ledger:
        ledger.propose("run/0/plan", [make(0)], whole)
    for attempt in range(6):
        child = multiprocessing.get_context("fork").Process(
            target=_spend_until_killed, args=(opened, make, whole, log)
        )
        before = computed(tmp_path)
        child.start()
        while computed(tmp_path) == before and child.is_alive():
            time.sleep(0.001)
        time.sleep(0.0137 * attempt)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(timeout=60)
        assert child.exitcode == -signal.SIGKILL
        stored = read_sealed(tmp_path / "ledger.sqlite")
        assert chain_faults(stored) == []
        done = [int(line) for line in log.read_text().splitlines()]
        with opened() as ledger:
            intents = ledger.intents()
            assert len(done) <= len(intents) <= len(done) + 1 + attempt
            assert {ledger.intent_of(f"run/{i.round}/step") for i in intents} >= set(done)
            assert len(ledger.releases()) <= len(done)

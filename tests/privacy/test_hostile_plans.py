"""Whatever plan a server sends: an organisation clips, noises and counts as its own options say."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import agent as module
from client.agent import Agent, Resources
from client.trainer import Update
from shared.accounting import Event, calibrate
from shared.errors import PrivacyError
from shared.messages import Reply, Request
from shared.plan import Mechanism, Noise, PrivacyPlan

OpenAgent = Callable[..., AbstractContextManager[Agent]]

names = st.sampled_from(["popularity", "cooccurrence", "step"])


class Work:
    """Stands in for the work on histories, and counts how often it was done."""

    def __init__(self, adapter: dict[str, npt.NDArray[np.float32]]) -> None:
        self.adapter = adapter
        self.done = 0

    def steps(self, *_: Any) -> Update:
        self.done += 1
        return Update(self.adapter, 0)

    def sum(self, *_: Any) -> npt.NDArray[np.float64]:
        self.done += 1
        return np.zeros(3)


@pytest.fixture(scope="module")
def work(resources: Resources) -> Iterator[Work]:
    counter = Work(
        {n: np.zeros(tuple(p.shape), np.float32) for n, p in resources.trainable.model.trained.items()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "private_steps", counter.steps)
        patch.setattr(module, "popularity_sum", counter.sum)
        patch.setattr(module, "cooccurrence_sum", counter.sum)
        yield counter


@pytest.fixture(scope="module")
def least_noise() -> float:
    """Noise multiplier with which one release over all users takes the whole budget."""
    return calibrate(lambda scale: (Event(1.0, scale),), 8.0, 1e-4)


def changed(plan: PrivacyPlan, name: str, **change: Any) -> PrivacyPlan:
    mechanism = dataclasses.replace(plan.mechanism(name), **change)
    return dataclasses.replace(plan, **{name: mechanism})


def ask(agent: Agent, plan: PrivacyPlan, name: str, work: Work, number: int = 1) -> Reply:
    arrays: dict[str, Any] = dict(work.adapter)
    if name == "cooccurrence":
        arrays = {"keys": agent.catalogue.key_hashes[:3]}
    request = Request("run", number, plan, "model-of-the-test", arrays)
    return {"step": agent.train}.get(name, getattr(agent, name, agent.train))(request)


def prepared(agent: Agent) -> Agent:
    keys = agent.catalogue.key_hashes
    arrays: dict[str, npt.NDArray[Any]] = {
        "keys": keys,
        "log_popularity": np.zeros(len(keys)),
        "top": np.arange(0),
        "transition": np.zeros((0, 0)),
        "floor": np.zeros(1),
    }
    agent.deliver_statistics(Request("run", 0, None, "", arrays))
    return agent


def refused(open_agent: OpenAgent, plan: PrivacyPlan, name: str, work: Work, match: str) -> None:
    """Assert that a plan is refused, with nothing done, spent or sent."""
    before = work.done
    with open_agent() as agent:
        with pytest.raises(PrivacyError, match=match):
            ask(prepared(agent), plan, name, work)
        assert work.done == before
        assert agent.ledger.events() == ()
        assert agent.ledger.releases() == ()
        assert not (agent.directory / "answers").exists()


@pytest.mark.parametrize("name", ["popularity", "cooccurrence", "step"])
def test_the_honest_plan_is_followed(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str
) -> None:
    before = work.done
    with open_agent() as agent:
        ask(prepared(agent), plan, name, work)
        assert work.done == before + 1
        assert agent.ledger.events() == (plan.mechanism(name).event(),)


@settings(max_examples=12, deadline=None)
@given(name=names, part=st.floats(0.5, 0.99))
def test_noise_below_what_the_budget_allows_is_refused(
    open_agent: OpenAgent,
    plan: PrivacyPlan,
    work: Work,
    least_noise: float,
    name: str,
    part: float,
) -> None:
    hostile = changed(plan, name, noise_multiplier=part * least_noise)
    refused(open_agent, hostile, name, work, "budget")


@given(name=names)
def test_a_plan_without_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str
) -> None:
    refused(open_agent, changed(plan, name, noise_multiplier=0.0), name, work, "budget")


@settings(deadline=None)
@given(name=names, share=st.floats(1e-9, 1.0, exclude_max=True))
def test_less_than_all_of_the_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, share: float
) -> None:
    refused(open_agent, changed(plan, name, noise_share=share), name, work, "of the noise")


@settings(deadline=None)
@given(name=names, bound=st.floats(1e-6, 1e6).filter(lambda value: value != 1.0))
def test_another_sensitivity_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, bound: float
) -> None:
    refused(open_agent, changed(plan, name, sensitivity=bound), name, work, "sensitivity")


@settings(deadline=None)
@given(name=names, noise=st.sampled_from([Noise.SHARED, Noise.NONE]), share=st.floats(0.1, 1.0))
def test_another_kind_of_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, noise: Noise, share: float
) -> None:
    hostile = dataclasses.replace(changed(plan, name, noise_share=share), noise=noise)
    refused(open_agent, hostile, name, work, "noise is")


@settings(deadline=None)
@given(name=names, delta=st.floats(1.0001e-4, 0.999))
def test_a_larger_delta_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, delta: float
) -> None:
    refused(open_agent, dataclasses.replace(plan, delta=delta), name, work, "delta")


@pytest.mark.parametrize("claimed", [3, 4, 1000])
def test_a_plan_of_more_steps_buys_none(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, claimed: int
) -> None:
    """The honest plan has three; the server asks for a fourth, whatever number it claims."""
    hostile = dataclasses.replace(plan, steps=claimed)
    before = work.done
    with open_agent() as agent:
        prepared(agent)
        for name in ("popularity", "cooccurrence"):
            ask(agent, hostile, name, work, number=0)
        for number in (1, 2, 3):
            ask(agent, hostile, "step", work, number)
        with pytest.raises(PrivacyError, match="budget"):
            ask(agent, hostile, "step", work, number=4)
        assert work.done == before + 5
        assert agent.ledger.spent() <= 8.0


def test_the_steps_of_a_round_are_the_organisations_own(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work
) -> None:
    with open_agent() as agent:
        ask(prepared(agent), dataclasses.replace(plan, steps=50), "step", work)
        assert [event.count for event in agent.ledger.events()] == [1]


@settings(max_examples=8, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            names,
            st.integers(0, 3),
            st.sampled_from([0.5, 0.7, 1.0, 3.0]),
            st.sampled_from([1.0, 0.5]),
            st.sampled_from([1, 3, 40]),
        ),
        min_size=2,
        max_size=7,
    )
)
def test_no_sequence_of_requests_passes_the_budget(
    open_agent: OpenAgent,
    plan: PrivacyPlan,
    work: Work,
    requests: list[tuple[str, int, float, float, int]],
) -> None:
    before = work.done
    with open_agent() as agent:
        prepared(agent)
        for name, number, sigma, rate, steps in requests:
            step = Mechanism(name, rate, sigma, 1.0)
            hostile = dataclasses.replace(plan, **{name: step}, steps=steps)
            try:
                ask(agent, hostile, name, work, number)
            except PrivacyError:
                continue
        assert agent.ledger.spent() <= 8.0
        assert work.done - before == sum(event.count for event in agent.ledger.events())
        assert len(agent.ledger.releases()) == work.done - before

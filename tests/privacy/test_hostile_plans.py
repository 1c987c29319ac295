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
from client.agent import Agent
from client.trainer import Update
from shared.accounting import Event, calibrate
from shared.errors import PrivacyError
from shared.messages import Reply, Request
from shared.plan import Mechanism, Noise, PrivacyPlan

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]

names = st.sampled_from(["popularity", "cooccurrence", "step"])


class Work:
    """Stands in for the work on histories, and counts how often it was done."""

    def __init__(self, adapter: Arrays) -> None:
        self.adapter = adapter
        self.done = 0

    def steps(self, *_: Any) -> Update:
        self.done += 1
        return Update(self.adapter, 0)

    def sum(self, *_: Any) -> npt.NDArray[np.float64]:
        self.done += 1
        return np.zeros(3)


@pytest.fixture(scope="module")
def work(adapter: Arrays) -> Iterator[Work]:
    counter = Work(adapter)
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
    part: dict[str, Any] = {name: dataclasses.replace(plan.mechanism(name), **change)}
    return dataclasses.replace(plan, **part)


def ask(agent: Agent, plan: PrivacyPlan, name: str, work: Work, number: int = 1) -> Reply:
    if name == "step":
        return agent.train(Request("run", number, plan, "model-of-the-test", work.adapter))
    arrays: Arrays = {"keys": agent.catalogue.key_hashes[:3]}
    request = Request("run", number, plan, "", arrays)
    return agent.popularity(request) if name == "popularity" else agent.cooccurrence(request)


def refused(open_agent: OpenAgent, plan: PrivacyPlan, name: str, work: Work, match: str) -> None:
    """Assert that a plan is refused, with nothing done, spent or sent."""
    before = work.done
    with open_agent() as agent:
        with pytest.raises(PrivacyError, match=match):
            ask(agent, plan, name, work)
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
        ask(agent, plan, name, work)
        assert work.done == before + 1
        assert agent.ledger.events() == (plan.mechanism(name).event(),)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(name=names, part=st.floats(0.7, 0.999))
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


@pytest.mark.parametrize("name", ["popularity", "cooccurrence", "step"])
def test_a_plan_without_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str
) -> None:
    refused(open_agent, changed(plan, name, noise_multiplier=0.0), name, work, "budget")


@settings(max_examples=30, deadline=None)
@given(name=names, share=st.floats(1e-9, 1.0, exclude_max=True))
def test_less_than_all_of_the_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, share: float
) -> None:
    refused(open_agent, changed(plan, name, noise_share=share), name, work, "of the noise")


@settings(max_examples=30, deadline=None)
@given(name=names, bound=st.floats(1e-6, 1e6).filter(lambda value: value != 1.0))
def test_another_sensitivity_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, bound: float
) -> None:
    refused(open_agent, changed(plan, name, sensitivity=bound), name, work, "sensitivity")


@settings(max_examples=30, deadline=None)
@given(name=names, noise=st.sampled_from([Noise.SHARED, Noise.NONE]), share=st.floats(0.1, 1.0))
def test_another_kind_of_noise_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, noise: Noise, share: float
) -> None:
    hostile = dataclasses.replace(changed(plan, name, noise_share=share), noise=noise)
    refused(open_agent, hostile, name, work, "noise is")


@settings(max_examples=30, deadline=None)
@given(name=names, delta=st.floats(1.0001e-4, 0.999))
def test_a_larger_delta_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, name: str, delta: float
) -> None:
    refused(open_agent, dataclasses.replace(plan, delta=delta), name, work, "delta")


@pytest.mark.parametrize("claimed", [4, 60, 10**9])
def test_a_plan_of_more_steps_than_the_organisation_takes_is_refused(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, claimed: int
) -> None:
    refused(open_agent, dataclasses.replace(plan, steps=claimed), "step", work, "at most 3")


@pytest.mark.parametrize("claimed", [1, 3])
def test_a_fourth_step_is_not_bought_by_claiming_fewer(
    open_agent: OpenAgent, plan: PrivacyPlan, work: Work, claimed: int
) -> None:
    """The honest plan has three; the server asks for a fourth."""
    hostile = dataclasses.replace(plan, steps=claimed)
    before = work.done
    with open_agent() as agent:
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
        ask(agent, dataclasses.replace(plan, steps=1), "step", work)
        assert [event.count for event in agent.ledger.events()] == [1]


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            names,
            st.integers(0, 2),
            st.sampled_from([(0.7, 1.0), (1.0, 1.0), (2.0, 0.5)]),
            st.sampled_from([1, 3]),
        ),
        min_size=3,
        max_size=6,
    )
)
def test_no_sequence_of_requests_passes_the_budget(
    open_agent: OpenAgent,
    plan: PrivacyPlan,
    work: Work,
    requests: list[tuple[str, int, tuple[float, float], int]],
) -> None:
    before = work.done
    with open_agent() as agent:
        for name, number, (sigma, rate), steps in requests:
            part: dict[str, Any] = {name: Mechanism(name, rate, sigma, 1.0), "steps": steps}
            hostile = dataclasses.replace(plan, **part)
            try:
                ask(agent, hostile, name, work, number)
            except PrivacyError:
                continue
        assert agent.ledger.spent() <= 8.0
        assert work.done - before == sum(event.count for event in agent.ledger.events())
        assert len(agent.ledger.releases()) == work.done - before

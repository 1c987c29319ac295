"""A node that joins, or comes back, in the middle of a run is taken in before the next round."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app.error import Error

from shared import messages
from shared.messages import Reply
from shared.wire import REFUSED
from simulations.engine import InProcessGrid

MakeFederation = Callable[..., Any]

STATISTICS = {"keys": np.arange(3, dtype=np.uint64)}


class GrowingGrid(InProcessGrid):
    """Shows the first ``present`` of its nodes."""

    present = 2

    def get_node_ids(self) -> Iterable[int]:
        return list(super().get_node_ids())[: self.present]


def reply(name: str, users: int = 100) -> Reply:
    return Reply(name, users, 0, {})


@pytest.fixture
def growing(make_federation: MakeFederation) -> Callable[..., Any]:
    """A federation in which two of three nodes have joined and hold the statistics."""

    def make(third: Reply, changes: dict[int, Any] | None = None) -> Any:
        federation = make_federation([reply("a"), reply("b"), third], changes)
        federation.grid.__class__ = GrowingGrid
        federation.inquiry.join(federation.grid)
        federation.inquiry.deliver_statistics(federation.grid, STATISTICS)
        federation.requests.clear()
        federation.grid.present = 3
        return federation

    return make


def asked(federation: Any) -> list[int]:
    return [node for node, _ in federation.requests]


def test_a_late_node_joins_hears_the_plan_and_gets_the_statistics(growing: Any) -> None:
    federation = growing(reply("c", 300))
    federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert asked(federation) == [2, 2, 2]
    assert all(request.plan == federation.plan for _, request in federation.requests)
    assert np.array_equal(federation.asked[messages.DELIVER_STATISTICS]["keys"], np.arange(3))
    assert ("c", 300) in federation.inquiry.members.values()


def test_who_is_there_already_is_not_asked_again(growing: Any) -> None:
    federation = growing(reply("c"))
    for _ in range(2):
        federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert asked(federation) == [2, 2, 2]


def test_a_late_node_that_refuses_is_asked_before_the_next_round_again(growing: Any) -> None:
    federation = growing(reply("c"), {2: lambda good: Error(REFUSED, "not approved")})
    for _ in range(2):
        federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert asked(federation) == [2, 2]
    assert federation.reasons == ["not approved", "not approved"]
    federation.changes.clear()
    federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert asked(federation) == [2, 2, 2, 2, 2]


def test_a_late_node_cannot_take_the_name_of_another(growing: Any) -> None:
    federation = growing(reply("a", 10**6))
    federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert asked(federation) == [2]
    assert "under this name" in federation.reasons[0]
    assert len(federation.inquiry.members) == 2


def test_a_node_that_comes_back_is_held_to_what_it_said(growing: Any) -> None:
    federation = growing(reply("c"))
    federation.inquiry.equipped.clear()
    federation.good[1] = reply("b", 10**6)
    federation.inquiry.catch_up(federation.grid, STATISTICS)
    assert "its node joined as ('b', 100)" in federation.reasons[0]
    assert sorted(federation.inquiry.members.values()) == [("a", 100), ("b", 100), ("c", 100)]

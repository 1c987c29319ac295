"""What is lost on the way is sent again; what is refused, or comes too late, is not."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from server import exchange as module
from server.exchange import MOST_SENDINGS, exchange
from shared.wire import REFUSED, UNREACHABLE
from simulations.engine import InProcessGrid

Answer = Callable[[int, int], int]


class Node:
    """Answers each message with the error that ``answer(node, sending)`` gives; 0: with content."""

    def __init__(self, answer: Answer, nodes: int = 2) -> None:
        self.sendings: dict[int, list[RecordDict]] = {}
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            sent = self.sendings.setdefault(context.node_id, [])
            sent.append(message.content)
            code = answer(context.node_id, len(sent))
            if code:
                return Message(Error(code, "why"), reply_to=message)
            return Message(RecordDict(), reply_to=message)

        self.grid = InProcessGrid(app, {}, nodes)

    def exchange(self, timeout_s: float = 60.0) -> list[Message]:
        outgoing = [Message(RecordDict(), node, "train") for node in self.grid.get_node_ids()]
        return exchange(self.grid, outgoing, timeout_s)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(module, "POLL_S", 0.0)


@pytest.mark.parametrize(
    "code",
    [
        UNREACHABLE,
        ErrorCode.CLIENT_APP_CRASHED,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ],
)
def test_a_message_that_was_lost_is_sent_again_until_it_is_answered(code: int) -> None:
    node = Node(lambda number, sending: int(code) if number == 2 and sending < 3 else 0)
    answers = node.exchange()
    assert [answer.has_error() for answer in answers] == [False, False]
    assert {number: len(sent) for number, sent in node.sendings.items()} == {2: 3, 3: 1}


@pytest.mark.parametrize("code", [REFUSED, 1, 7])
def test_a_refusal_is_not_asked_for_twice(code: int) -> None:
    node = Node(lambda number, sending: code if number == 2 else 0)
    answers = node.exchange()
    assert sorted(answer.has_error() for answer in answers) == [False, True]
    assert len(node.sendings[2]) == 1


def test_a_node_that_stays_lost_is_given_up_with_its_error() -> None:
    node = Node(lambda number, sending: UNREACHABLE)
    answers = node.exchange()
    assert [answer.error.code for answer in answers] == [UNREACHABLE, UNREACHABLE]
    assert {len(sent) for sent in node.sendings.values()} == {MOST_SENDINGS}


class SilentGrid(InProcessGrid):
    """Never hands over the answers of node 2."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        answers = list(super().pull_messages(message_ids))
        return [answer for answer in answers if answer.metadata.src_node_id != 2]


def test_after_the_deadline_no_more_is_waited_for() -> None:
    node = Node(lambda number, sending: 0)
    node.grid.__class__ = SilentGrid
    answers = node.exchange(timeout_s=0.3)
    assert [answer.metadata.src_node_id for answer in answers] == [3]


def test_a_deadline_ends_the_wait_for_what_was_lost_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 3600.0)
    node = Node(lambda number, sending: UNREACHABLE if number == 2 else 0)
    answers = node.exchange(timeout_s=0.3)
    assert sorted(answer.has_error() for answer in answers) == [False, True]


class RefusingGrid(InProcessGrid):
    """Takes no message, as Flower's grid does with one that is malformed or too large."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[Any]:
        return [None for _ in messages]


def test_a_message_that_could_not_be_sent_is_not_waited_for() -> None:
    node = Node(lambda number, sending: 0)
    node.grid.__class__ = RefusingGrid
    assert node.exchange() == []


class LeavingGrid(InProcessGrid):
    """Loses what node 2 was sent the first time, and does not show it at the first ``looks``."""

    looks = 1
    held: str | None = None

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        identifiers = list(super().push_messages(sent))
        for identifier, message in zip(identifiers, sent, strict=True):
            if message.metadata.dst_node_id == 2 and self.held is None:
                self.held = identifier
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages([i for i in message_ids if i != self.held])

    def get_node_ids(self) -> Iterable[int]:
        present = list(super().get_node_ids())
        if self.held is None or self.looks <= 0:
            return present
        self.looks -= 1
        return [node for node in present if node != 2]


def leaving(monkeypatch: pytest.MonkeyPatch, looks: int, away_s: float) -> Node:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "AWAY_S", away_s)
    node = Node(lambda number, sending: 0)
    node.grid.__class__ = LeavingGrid
    node.grid.looks = looks
    return node


def test_a_node_that_was_away_is_asked_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = leaving(monkeypatch, looks=3, away_s=3600.0)
    answers = node.exchange(timeout_s=3600.0)
    assert sorted(answer.metadata.src_node_id for answer in answers) == [2, 3]
    assert {number: len(sent) for number, sent in node.sendings.items()} == {2: 2, 3: 1}


def test_a_node_that_stays_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    node = leaving(monkeypatch, looks=10**9, away_s=0.1)
    answers = node.exchange(timeout_s=3600.0)
    assert [answer.metadata.src_node_id for answer in answers] == [3]

"""Sending requests and waiting for their answers: what is lost on the way is sent again.

A request can be repeated at no cost: an organisation that has answered it sends the stored answer.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from shared.wire import UNREACHABLE

LOGGER = logging.getLogger(__name__)

# Flower's own send_and_receive looks every 3 seconds: longer than many a round.
POLL_S = 0.2
# An agent that was killed is back in seconds.
PAUSE_S = 3.0
MOST_SENDINGS = 5
# A node is away when its heartbeats have stopped; what it was handed is never handed out again.
LOOK_S = 5.0
AWAY_S = 120.0
LOST = frozenset(
    {
        UNREACHABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)


def exchange(grid: Grid, outgoing: Iterable[Message], timeout_s: float) -> list[Message]:
    """Send messages and return the answers that came in time.

    Args:
        grid: reaches the nodes.
        outgoing: at most one message a node.
        timeout_s: after which no more is waited for; a later answer is never read. A node that is
            away for ``AWAY_S`` is not waited for either.
    """
    return _Exchange(grid).run(list(outgoing), time.monotonic() + timeout_s)


class _Exchange:
    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, Message] = {}
        self._sent_to: dict[int, list[str]] = {}
        self._again: dict[int, tuple[float, Message, Message]] = {}
        self._sendings: Counter[int] = Counter()
        self._away: dict[int, float] = {}
        self._looked = time.monotonic()
        self._answers: list[Message] = []

    def run(self, outgoing: list[Message], deadline: float) -> list[Message]:
        self._push(outgoing)
        while True:
            for answer in self._grid.pull_messages(list(self._waiting)):
                self._take(answer)
            if not self._waiting and not self._again:
                return self._answers
            now = time.monotonic()
            if now >= deadline:
                return self._answers + [answer for _, _, answer in self._again.values()]
            due = [node for node, (at, _, _) in self._again.items() if at <= now]
            self._push([self._again.pop(node)[1] for node in due])
            if now - self._looked >= LOOK_S:
                self._look(now)
            time.sleep(min(POLL_S, max(0.0, deadline - now)))

    def _push(self, messages: list[Message]) -> None:
        if not messages:
            return
        self._sendings.update(message.metadata.dst_node_id for message in messages)
        identifiers = self._grid.push_messages(messages)
        # Flower gives None for a message that it could not take.
        for identifier, message in zip(identifiers, messages, strict=False):
            if identifier:
                self._waiting[identifier] = message
                self._sent_to.setdefault(message.metadata.dst_node_id, []).append(identifier)

    def _take(self, answer: Message) -> None:
        sent = self._waiting.get(answer.metadata.reply_to_message_id)
        if sent is None:
            return
        node = sent.metadata.dst_node_id
        self._forget(node)
        if not _lost(answer) or self._sendings[node] >= MOST_SENDINGS:
            self._answers.append(answer)
            return
        LOGGER.warning("node %d: %s; it is asked again", node, answer.error.reason)
        self._again[node] = time.monotonic() + PAUSE_S, _copy(sent), answer

    def _look(self, now: float) -> None:
        """Ask nodes again that were away and are back; give up those that stay away."""
        self._looked = now
        present = set(self._grid.get_node_ids())
        back = []
        for sent in list(self._waiting.values()):
            node = sent.metadata.dst_node_id
            if node not in present:
                since = self._away.setdefault(node, now)
                if now - since >= AWAY_S:
                    LOGGER.warning("node %d: away for %g s; not waited for", node, now - since)
                    self._forget(node)
            elif self._away.pop(node, None) and self._sendings[node] < MOST_SENDINGS:
                # The first message stays awaited: only the link may have been cut.
                back.append(_copy(sent))
        self._push(back)

    def _forget(self, node: int) -> None:
        for identifier in self._sent_to.pop(node, ()):
            del self._waiting[identifier]


def _lost(answer: Message) -> bool:
    return answer.has_error() and answer.error.code in LOST


def _copy(sent: Message) -> Message:
    metadata = sent.metadata
    return Message(
        sent.content, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id
    )

"""Asking the nodes of a run: one request each, replies parsed, checked and counted."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.exchange import exchange
from server.heads import HeadBook
from server.observers import current
from shared.config import ServerSection
from shared.errors import FederationError
from shared.messages import (
    DELIVER_STATISTICS,
    JOIN,
    PLAN,
    Reply,
    Request,
    pack_request,
    signed,
    unpack_reply,
)
from shared.plan import PrivacyPlan
from shared.stages import stage
from shared.wire import AnyArrays, arrays_sha256, pack_arrays

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A reply that was not used, and why."""

    round: int
    node: int
    reason: str


@dataclass
class Inquiry:
    """Requests of one run.

    Attributes:
        run: identifier of the run; part of every request's.
        model_sha256: of the model whose adapter is trained.
        options: time-out and fewest replies.
        book: remembers the heads of the organisations' ledgers.
        settings: of the run, sent with every request.
        plan: sent with every request once it is known.
        members: what each node said at the join, by node; a reply that says otherwise is refused.
        equipped: nodes that hold the statistics, and so can train.
        refusals: replies that were not used.
    """

    run: str
    model_sha256: str
    options: ServerSection
    book: HeadBook
    settings: str = ""
    plan: PrivacyPlan | None = None
    members: dict[int, tuple[str, int]] = field(default_factory=dict)
    equipped: set[int] = field(default_factory=set)
    refusals: list[Refusal] = field(default_factory=list)

    def ask(
        self,
        grid: Grid,
        kind: str,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        check: Callable[[Reply], None] | None = None,
        round_number: int = 0,
    ) -> list[Reply]:
        """Send one request to every node and return the replies that are whole, by name.

        Raises:
            FederationError: if fewer than ``server.min_replies`` came.
        """
        outgoing = self.messages(grid, kind, round_number, arrays)
        replies = self.exchange(grid, outgoing)
        return self.usable(round_number, replies, check)

    def exchange(self, grid: Grid, outgoing: Iterable[Message]) -> list[Message]:
        """Send messages and return the answers that came before the deadline."""
        return exchange(grid, outgoing, self.options.round_timeout_s)

    def join(self, grid: Grid) -> list[Reply]:
        """Ask every node who it is and which size it declares, and hold it to that.

        Raises:
            FederationError: if fewer than ``server.min_replies`` came.
        """
        joined = self.ask(grid, JOIN, {})
        self.members = {reply.node: (reply.name, reply.declared_users) for reply in joined}
        return joined

    def deliver_statistics(self, grid: Grid, statistics: AnyArrays) -> None:
        """Hand the statistics to every node.

        Raises:
            FederationError: if fewer than ``server.min_replies`` took them.
        """
        taken = self.ask(grid, DELIVER_STATISTICS, statistics)
        self.equipped = {reply.node for reply in taken}

    def catch_up(self, grid: Grid, statistics: AnyArrays) -> None:
        """Take in the nodes that joined, or came back, after the statistics were delivered.

        A node that refuses or is lost is asked again before the next round.
        """
        late = set(grid.get_node_ids()) - self.equipped
        steps: tuple[tuple[str, AnyArrays], ...]
        steps = ((JOIN, {}), (PLAN, {}), (DELIVER_STATISTICS, statistics))
        for kind, arrays in steps:
            if not late:
                return
            replies = self.exchange(grid, self.messages(grid, kind, 0, arrays, late))
            found = self.whole(0, replies, None, joining=kind == JOIN)
            if kind == JOIN:
                self.members |= {r.node: (r.name, r.declared_users) for r in found}
            late = {reply.node for reply in found}
        self.equipped |= late

    def messages(
        self,
        grid: Grid,
        kind: str,
        round_number: int,
        arrays: AnyArrays,
        nodes: Collection[int] | None = None,
        attempt: int = 0,
        own: Mapping[int, AnyArrays] | None = None,
    ) -> list[Message]:
        """The same request for all nodes or those given; each with the anchor of its own ledger.

        Args:
            grid: reaches the nodes.
            kind: of the message.
            round_number: of the request.
            arrays: for all of them.
            nodes: that are asked; None: all.
            attempt: at a secure sum.
            own: further arrays for each node alone.
        """
        packed, hashed = pack_arrays(arrays), arrays_sha256(arrays)

        def content(node: int) -> RecordDict:
            given = {} if own is None else own[node]
            request = Request(
                self.run,
                round_number,
                self.plan,
                self.model_sha256,
                {},
                anchor=self.book.anchor_for(node),
                settings=self.settings,
                attempt=attempt,
            )
            if not given:
                return pack_request(signed(kind, request, self.book.key, hashed), packed)
            both = arrays_sha256({**arrays, **given})
            parts = ArrayRecord({**packed, **pack_arrays(given)})
            return pack_request(signed(kind, request, self.book.key, both), parts)

        return [
            Message(content(node), dst_node_id=node, message_type=kind, group_id=str(round_number))
            for node in sorted(grid.get_node_ids() if nodes is None else nodes)
        ]

    def usable(
        self,
        round_number: int,
        replies: Iterable[Message],
        check: Callable[[Reply], None] | None = None,
    ) -> list[Reply]:
        """Replies that parse, belong to the round and pass ``check``, in order of name.

        Raises:
            FederationError: if fewer than ``server.min_replies`` are left.
        """
        before = len(self.refusals)
        found = self.whole(round_number, replies, check)
        if len(found) < self.options.min_replies:
            reasons = "; ".join(refusal.reason for refusal in self.refusals[before:])
            raise FederationError(
                f"round {round_number}: {len(found)} usable replies, "
                f"{self.options.min_replies} needed. {reasons}"
            )
        return found

    def whole(
        self,
        round_number: int,
        replies: Iterable[Message],
        check: Callable[[Reply], None] | None,
        joining: bool = False,
    ) -> list[Reply]:
        """Replies that parse, belong to the round and pass ``check``, however few, by name."""
        found: dict[str, Reply] = {}
        for message in replies:
            try:
                reply = _content(message, round_number)
                with stage("checks"):
                    self._check_member(reply, joining)
                    if check is not None:
                        check(reply)
                if reply.name in found:
                    raise FederationError(f"{reply.name}: two replies under one name")
                self.book.see(reply, self.run)
                found[reply.name] = reply
            except FederationError as error:
                self.refuse(round_number, message.metadata.src_node_id, str(error))
        return [found[name] for name in sorted(found)]

    def refuse(self, round_number: int, node: int, reason: str) -> None:
        """Count what came from a node and cannot be used, and tell who looks on."""
        refusal = Refusal(round_number, node, reason)
        self.refusals.append(refusal)
        name = self.members.get(refusal.node, ("", 0))[0]
        LOGGER.warning("round %d, node %d: %s", refusal.round, refusal.node, refusal.reason)
        for observer in current():
            observer.refused(refusal.round, name or f"node {refusal.node}", refusal.reason)

    def _check_member(self, reply: Reply, joining: bool) -> None:
        if not self.members:
            return
        joined = self.members.get(reply.node)
        if joining and joined is None:
            if reply.name in {name for name, _ in self.members.values()}:
                raise FederationError(f"{reply.name}: another node has joined under this name")
            return
        if joined != (reply.name, reply.declared_users):
            raise FederationError(
                f"{reply.name}: says {reply.declared_users} users; its node joined as {joined}"
            )


def _content(message: Message, round_number: int) -> Reply:
    if message.has_error():
        raise FederationError(message.error.reason or f"error code {message.error.code}")
    reply = unpack_reply(message.content, message.metadata.src_node_id)
    if reply.round != round_number:
        raise FederationError(f"{reply.name}: an answer to round {reply.round}")
    return reply

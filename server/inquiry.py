"""Asking the nodes of a run: one request each, replies parsed, checked and counted."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.heads import HeadBook
from shared.config import ServerSection
from shared.errors import FederationError
from shared.messages import JOIN, Reply, Request, pack_arrays, pack_request, unpack_reply
from shared.plan import PrivacyPlan

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
        plan: sent with every request once it is known.
        members: what each node said at the join, by node; a reply that says otherwise is refused.
        refusals: replies that were not used.
    """

    run: str
    model_sha256: str
    options: ServerSection
    book: HeadBook
    plan: PrivacyPlan | None = None
    members: dict[int, tuple[str, int]] = field(default_factory=dict)
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
        replies = grid.send_and_receive(outgoing, timeout=self.options.round_timeout_s)
        return self.usable(round_number, replies, check)

    def join(self, grid: Grid) -> list[Reply]:
        """Ask every node who it is and which size it declares, and hold it to that.

        Raises:
            FederationError: if fewer than ``server.min_replies`` came.
        """
        joined = self.ask(grid, JOIN, {})
        self.members = {reply.node: (reply.name, reply.declared_users) for reply in joined}
        return joined

    def messages(
        self,
        grid: Grid,
        kind: str,
        round_number: int,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> list[Message]:
        """The same request for every node; each with the anchor of its own ledger."""
        packed = pack_arrays(arrays)

        def content(node: int) -> RecordDict:
            anchor = self.book.anchor_for(node)
            key = self.book.key.public
            request = Request(self.run, round_number, self.plan, self.model_sha256, {}, key, anchor)
            return pack_request(request, packed)

        return [
            Message(content(node), dst_node_id=node, message_type=kind, group_id=str(round_number))
            for node in sorted(grid.get_node_ids())
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
        found: dict[str, Reply] = {}
        for message in replies:
            try:
                reply = _content(message, round_number)
                self._check_member(reply)
                if check is not None:
                    check(reply)
                if reply.name in found:
                    raise FederationError(f"{reply.name}: two replies under one name")
                self.book.see(reply, self.run)
                found[reply.name] = reply
            except FederationError as error:
                node = message.metadata.src_node_id
                self.refusals.append(Refusal(round_number, node, str(error)))
                LOGGER.warning("round %d, node %d: %s", round_number, node, error)
        if len(found) < self.options.min_replies:
            reasons = "; ".join(r.reason for r in self.refusals if r.round == round_number)
            raise FederationError(
                f"round {round_number}: {len(found)} usable replies, "
                f"{self.options.min_replies} needed. {reasons}"
            )
        return [found[name] for name in sorted(found)]

    def _check_member(self, reply: Reply) -> None:
        if not self.members:
            return
        joined = self.members.get(reply.node)
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

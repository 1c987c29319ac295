"""Replies of organisations, and a federation of hand-written clients over the in-process grid."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from server.aggregation import IterateAverage, ServerOptimizer, Signal
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.strategy import FederationStrategy
from shared.adapters import Arrays
from shared.config import Config, parse_config
from shared.messages import Reply, Request, pack_arrays, pack_reply, parse_request
from shared.plan import make_plan
from shared.wire import from_records
from simulations.engine import InProcessGrid

Change = Callable[[RecordDict], RecordDict | Error]


@dataclass
class Federation:
    """A server's strategy with nodes that answer ``good`` replies, changed where a test says so.

    Attributes:
        config: of the run.
        good: what each node answers when it is honest.
        changes: by node, what is done to its packed reply before it leaves.
        asked: arrays of the newest request, by kind of message.
        requests: all requests, in order, each with the node that got it.
        directory: of the server's own files.
    """

    config: Config
    good: list[Reply]
    changes: dict[int, Change]
    asked: dict[str, dict[str, npt.NDArray[Any]]]
    requests: list[tuple[int, Request]]
    directory: Path

    def __post_init__(self) -> None:
        users = sum(reply.declared_users for reply in self.good)
        self.plan = make_plan(self.config, users, len(self.good))
        book = HeadBook(self.directory)
        self.inquiry = Inquiry("run", "model", self.config.server, book, plan=self.plan)
        self.grid = InProcessGrid(self._app(), {}, len(self.good))
        self.strategy = FederationStrategy(
            self.config,
            self.inquiry,
            self.plan,
            ServerOptimizer(self.config.server),
            IterateAverage(0.0, self.config.training.rounds),
            Signal(),
        )

    def train(self, adapter: Arrays, round_number: int = 1) -> Arrays:
        """One round from ``adapter``; returns the next one."""
        outgoing = self.strategy.configure_train(
            round_number, pack_arrays(adapter), ConfigRecord(), self.grid
        )
        record, _ = self.strategy.aggregate_train(
            round_number, self.grid.send_and_receive(outgoing)
        )
        assert isinstance(record, ArrayRecord)
        return {name: array.numpy() for name, array in record.items()}

    @property
    def reasons(self) -> list[str]:
        """Why replies were refused, in order."""
        return [refusal.reason for refusal in self.inquiry.refusals]

    def _app(self) -> ClientApp:
        app = ClientApp()

        def answer(message: Message, context: Context) -> Message:
            node = int(str(context.node_config["partition-id"]))
            request = parse_request(from_records(message.content, "request"))
            self.asked[message.metadata.message_type] = request.arrays
            self.requests.append((node, request))
            content = pack_reply(self.good[node])
            change = self.changes.get(node)
            if change is None:
                return Message(content, reply_to=message)
            changed = change(content)
            if isinstance(changed, Error):
                return Message(changed, reply_to=message)
            return Message(changed, reply_to=message)

        for kind in ("join", "plan", "popularity", "cooccurrence", "deliver_statistics"):
            app.query(kind)(answer)
        app.train()(answer)
        return app


MakeFederation = Callable[..., Federation]


@pytest.fixture
def make_federation(tmp_path: Path) -> MakeFederation:
    """A federation of nodes that answer given replies; ``set_`` changes its configuration."""

    def make(
        good: list[Reply],
        changes: dict[int, Change] | None = None,
        **sections: dict[str, Any],
    ) -> Federation:
        values: dict[str, dict[str, Any]] = {
            "server": {"optimizer": "average"},
            "aggregation": {"mode": "plain"},
            "statistics": {"top_items": 3},
            "training": {"rounds": 2},
        }
        for name, table in sections.items():
            values[name] = values.get(name, {}) | table
        return Federation(parse_config(values, "test"), good, changes or {}, {}, [], tmp_path)

    return make

"""Engines of a simulation: a Grid that calls the ClientApp directly, or Flower's Ray runtime."""

import os
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from shared.errors import FederationError

SERVER_NODE = 1
RUN_ID = 1

RunConfig = dict[str, str | int | float | bool]


class InProcessGrid(Grid):
    """Nodes that are calls: the model stays loaded, nothing is copied through a store.

    Args:
        client_app: handles every message.
        run_config: in every client's context.
        nodes: how many.
    """

    def __init__(self, client_app: ClientApp, run_config: RunConfig, nodes: int) -> None:
        # Message() reads whose process this is; Flower's own runtimes set it the same way.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, 1
        self._client_app = client_app
        self._contexts = {
            SERVER_NODE + 1 + place: Context(
                run_id=RUN_ID,
                node_id=SERVER_NODE + 1 + place,
                node_config={"partition-id": place, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for place in range(nodes)
        }
        self._run: Run | None = None
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Keep the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description.

        Raises:
            FederationError: if none was set.
        """
        if self._run is None:
            raise FederationError("the in-process grid was given no run")
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as ``Message(...)`` makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; they are there from the start."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Call the ClientApp for each message, one after the other, and keep the replies."""
        identifiers = []
        for message in messages:
            identifier = uuid4().hex
            message.metadata.__dict__["_message_id"] = identifier
            context = self._contexts[message.metadata.dst_node_id]
            self._replies[identifier] = self._client_app(message, context)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand the kept replies over, each once."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; calls return before this does, so no time-out can pass."""
        return self.pull_messages(self.push_messages(messages))


def run_in_process(
    server_app: ServerApp, client_app: ClientApp, run_config: RunConfig, nodes: int
) -> None:
    """Run both apps in this process."""
    grid = InProcessGrid(client_app, run_config, nodes)
    context = Context(
        run_id=RUN_ID,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config=run_config,
    )
    server_app(grid, context)


class Configured(ClientApp):
    """A ClientApp whose contexts carry a run config: Flower's Python entry point passes none."""

    def __init__(self, client_app: ClientApp, run_config: RunConfig) -> None:
        super().__init__()
        self._client_app = client_app
        self._run_config = run_config

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand the message on with the run config in its context."""
        # A context of its own: Flower refuses one that comes back with another run config.
        own = Context(
            context.run_id,
            context.node_id,
            context.node_config,
            context.state,
            dict(self._run_config),
        )
        return self._client_app(message, own)


def run_on_ray(
    server_app: ServerApp, client_app: ClientApp, run_config: RunConfig, nodes: int, threads: int
) -> None:
    """Run both apps on Flower's simulation runtime: Ray actors that each keep the model loaded.

    Args:
        server_app: run in a thread of this process.
        client_app: run in Ray's actors.
        run_config: in every context.
        nodes: how many clients.
        threads: cores of one actor.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.simulation import run_simulation

    outer = ServerApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = dict(run_config)
        server_app(grid, context)

    run_simulation(
        server_app=outer,
        client_app=Configured(client_app, run_config),
        num_supernodes=nodes,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count() or 1, "include_dashboard": False},
            "client_resources": {"num_cpus": threads, "num_gpus": 0.0},
        },
    )

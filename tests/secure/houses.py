"""Several real organisations with ledgers and data of their own, and a server's strategy."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.app.error import Error

from client.agent import Agent
from client.gate import Gate, Resident
from server.aggregation import IterateAverage, ServerOptimizer, Signal
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.strategy import FederationStrategy
from shared.config import Config
from shared.errors import TacitError
from shared.keys import SigningKey
from shared.messages import pack_reply, unpack_reply
from shared.plan import PrivacyPlan
from shared.settings import shared_settings
from shared.wire import FAILED, PHASE_OF, from_records, to_records
from simulations.engine import InProcessGrid
from tests.secure.house import DECLARED, NAMES, ROWS, open_agent, policy_of, run_config


@dataclass
class Houses:
    """Organisations behind their gates.

    Attributes:
        agents: by their number.
        strategy: of the server.
        grid: reaches them.
        lost: for each kind of message and attempt, numbers whose answers go astray.
    """

    agents: list[Agent]
    strategy: FederationStrategy
    grid: InProcessGrid
    lost: dict[tuple[str, int], set[int]] = field(default_factory=dict)

    def mechanisms(self, number: int) -> list[str]:
        """Of what left a house, in order."""
        return [release.mechanism for release in self.agents[number].ledger.releases()]


def answer(houses: list[Houses], gates: Sequence[Gate], message: Message, context: Context) -> Any:
    """What a node sends back."""
    kind, number = message.metadata.message_type, int(str(context.node_config["partition-id"]))
    parcel = from_records(message.content, "request")
    phase, _ = PHASE_OF.get(kind, ("masked", ""))
    try:
        replied = gates[number].ask(kind, parcel)
    except TacitError as error:
        return Message(Error(code=FAILED, reason=str(error)), reply_to=message)
    attempt = int(parcel.fields["attempt"])
    if number in houses[0].lost.get((phase, attempt), ()):
        return Message(Error(code=FAILED, reason="lost on the way"), reply_to=message)
    reply = unpack_reply(to_records(replied, "reply"), 0)
    return Message(pack_reply(reply), reply_to=message)


@contextmanager
def open_houses(
    folder: Path,
    plan: PrivacyPlan,
    names: Sequence[Sequence[str]] = (NAMES,) * 4,
    rows: Sequence[Sequence[Sequence[int]]] = (ROWS,) * 4,
    epsilon: float | None = 8.0,
    **sections: Mapping[str, Any],
) -> Iterator[Houses]:
    """Houses with catalogues of these names and histories of these rows.

    Args:
        folder: of all files.
        plan: of the run.
        names: of each house's items.
        rows: of each house's users.
        epsilon: of each house's budget; None where there is no noise.
        sections: of the run's configuration, changed.
    """
    number = len(names)
    config: Config = run_config(**{"partition": {"organisations": number}} | sections)
    keys = [
        SigningKey.load_or_create(folder / f"house-{n}" / "keys" / "organisation.pem")
        for n in range(number)
    ]
    members = [key.public for key in keys]
    least = plan.least_participants
    with ExitStack() as stack:
        agents = [
            stack.enter_context(
                open_agent(
                    folder / f"house-{n}",
                    policy_of(members, f"house {n}", epsilon, least_participants=least),
                    config,
                    names[n],
                    rows[n],
                )
            )
            for n in range(number)
        ]
        book = HeadBook(folder / "server")
        inquiry = Inquiry("run", "model", config.server, book, shared_settings(config), plan)
        strategy = FederationStrategy(
            config,
            inquiry,
            plan,
            ServerOptimizer(config.server),
            IterateAverage(0.0, 9),
            Signal(),
        )
        made: list[Houses] = []
        gates = [Gate(Resident(agent)) for agent in agents]
        grid = InProcessGrid(functools.partial(answer, made, gates), {}, number)  # type: ignore[arg-type]
        inquiry.members = {
            node: (f"house {n}", DECLARED) for n, node in enumerate(grid.get_node_ids())
        }
        made.append(Houses(agents, strategy, grid))
        yield made[0]

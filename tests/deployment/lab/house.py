"""An organisation of a federation under test, on the operator's path: every step is a command."""

import os
import socket as sockets
import sys
from dataclasses import dataclass
from pathlib import Path

from audit.bundle import read_evidence
from audit.heads import read_heads
from audit.verify import Verification, verify_ledger
from client.approval import public_key
from lab.goods import Shop
from lab.network import Host
from lab.processes import Lab, Started, owner_of, wait_until
from lab.user import as_other_user, ids
from shared.chain import Record, read_sealed
from shared.entries import Entry, Intent, Refusal, Release, parse_entry

TACIT = str(Path(sys.executable).with_name("tacit"))


@dataclass
class House:
    """One organisation: its folder, its SuperNode's folder, and their processes.

    Attributes:
        name: of the organisation.
        shop: its data.
        lab: starts its processes.
        host: its network namespace.
        folder: ORG and NODE and the shop's files lie in it.
        base: its own copy of the base model.
        environment: of all its processes.
        two_users: whether its SuperNode runs as another operating-system user than the agent.
        agent: the agent's process.
        node: the SuperNode's process.
    """

    name: str
    shop: Shop
    lab: Lab
    host: Host
    folder: Path
    base: Path
    environment: dict[str, str]
    two_users: bool = False
    agent: Started | None = None
    node: Started | None = None

    @property
    def org(self) -> Path:
        """The organisation's own folder."""
        return self.folder / "org"

    @property
    def node_folder(self) -> Path:
        """The SuperNode's."""
        return self.folder / "org-node"

    @property
    def socket(self) -> Path:
        """Of the agent."""
        return self.node_folder / "agent.sock"

    def tacit(self, step: str, *arguments: str) -> Started:
        """Start ``tacit`` in this house's namespace."""
        command = self.host.command(TACIT, *arguments)
        return self.lab.start(self.name, step, command, self.environment)

    def init(self, *options: str, epsilon: float = 45.0, delta: float = 2e-4) -> Started:
        """``tacit client init``, with further options."""
        interactions, items = self.shop.write(self.folder / "data")
        group = ("--socket-group", ids()[2]) if self.two_users else ()
        return self.tacit(
            *("init", "client", "init", str(self.org)),
            *("--name", self.name, "--users", str(self.shop.users)),
            *("--epsilon", str(epsilon), "--delta", str(delta)),
            *("--data", str(interactions), "--items", str(items), "--base", str(self.base)),
            *("--set", "machine.threads=1"),
            *group,
            *options,
        )

    def approve(self, federation: str, *members: str) -> Started:
        """``tacit client approve`` of a federation, and of the keys of others."""
        return self.tacit(
            *("approve", "client", "approve", str(self.org), "--federation", federation),
            *(part for key in members for part in ("--member", key)),
        )

    @property
    def key(self) -> str:
        """Public key of its ledger."""
        return public_key(self.org)

    def start_agent(self) -> Started:
        """``tacit client agent``; use ``agent_ready`` before asking it."""
        self.agent = self.tacit("agent", "client", "agent", str(self.org))
        return self.agent

    def agent_ready(self) -> None:
        """Wait until the agent listens."""
        agent = self.agent_process

        def listens() -> bool:
            if not agent.running:
                raise RuntimeError(f"{agent.name} ended:\n{agent.text()[-4000:]}")
            return _listens(self.socket)

        wait_until(listens, f"{self.name}'s agent listens")

    def start_node(self, superlink: str, *options: str) -> Started:
        """``tacit client node``."""
        command = [
            *(TACIT, "client", "node", str(self.node_folder), "--superlink", superlink),
            *options,
        ]
        environment = self.environment
        if self.two_users:
            command = self.as_node_user(command)
            environment = environment | {"HOME": str(self.node_folder)}
        self.node = self.lab.start(self.name, "node", self.host.command(*command), environment)
        return self.node

    def as_node_user(self, command: list[str]) -> list[str]:
        """A command line that runs as the user of the SuperNode, who owns NODE."""
        user, group, _ = ids()
        for path in [self.node_folder, *self.node_folder.rglob("*")]:
            if not path.is_socket():
                os.lchown(path, user, group)
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return as_other_user(command, scratch)

    @property
    def agent_process(self) -> Started:
        """The agent, which was started."""
        assert self.agent is not None
        return self.agent

    @property
    def node_process(self) -> Started:
        """``tacit client node``, which was started."""
        assert self.node is not None
        return self.node

    def node_number(self) -> str:
        """What the SuperLink calls this house's SuperNode, as that has printed it last."""
        return self.node_process.text().rpartition("SuperNode ID: ")[2].split("\n")[0]

    def node_settled(self) -> bool:
        """Whether Flower's SuperNode is in; one that gave up its link comes back by itself."""
        said = self.node_process.text()
        return said.rfind("SuperNode ID: ") > said.rfind("gave up its link")

    def node_back(self, superlink: str) -> None:
        """Start ``tacit client node`` again whenever it ends, as a supervisor does, until it is in.

        The SuperLink holds a SuperNode that was killed for present until its heartbeats are 60 s
        old, and lets no other in under its key so long.
        """

        def is_in() -> bool:
            if not self.node_process.running:
                self.start_node(superlink)
            said = self.node_process.text()
            return "SuperNode ID" in said and said.count("Starting Flower SuperNode") == 1

        wait_until(lambda: not self.node_process.running, f"{self.name}'s node ended")
        wait_until(is_in, f"{self.name}'s SuperNode is let in again")

    def delivered_adapter(self) -> bytes:
        """Weights of the adapter that the house was handed last."""
        return (self.org / "delivered" / "adapter" / "adapter_model.safetensors").read_bytes()

    def courier_users(self) -> set[int]:
        """Users of the operating system whom the couriers of this moment run as."""
        return {owner for pid in self.couriers() for owner in owner_of(pid)}

    def couriers(self) -> list[int]:
        """Processes of Flower's that carry a message at this moment."""
        return self.lab.find("flwr-clientapp", self.name)

    def supernode(self) -> int:
        """Flower's SuperNode process, under ``tacit client node``."""
        (found,) = [
            p for p in self.lab.find("client.supernode", self.name) if p != self.node_process.pid
        ]
        return found

    def entries(self) -> list[tuple[str, Entry | None]]:
        """Requests and entries of the ledger, in order; read while the agent may write."""
        records = [Record.parse(sealed.text) for sealed in read_sealed(self.org / "ledger.sqlite")]
        return [(record.request or "", parse_entry(record)) for record in records]

    def intents(self, run: str = "") -> list[Intent]:
        """Everything spent, or what one run spent."""
        found = [entry for _, entry in self.entries() if isinstance(entry, Intent)]
        return [intent for intent in found if not run or intent.run == run]

    def refusals(self, run: str = "") -> list[tuple[str, Refusal]]:
        """Requests that were refused, and why."""
        return [
            (request, entry)
            for request, entry in self.entries()
            if isinstance(entry, Refusal) and request.startswith(run)
        ]

    def releases(self, run: str = "") -> list[tuple[str, Release]]:
        """Requests that were answered with noised numbers."""
        return [
            (request, entry)
            for request, entry in self.entries()
            if isinstance(entry, Release) and entry.intent and request.startswith(run)
        ]

    def verified(self, heads: Path) -> Verification:
        """The ledger, checked against what the federation's server has seen of it, if anything."""
        seen = read_heads(heads) if heads.exists() else None
        return verify_ledger(read_evidence(self.org / "ledger.sqlite"), heads=seen)


def _listens(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

"""A federation under test: its server's side, and the houses that take part."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.goods import Shop, write_tiny_base
from lab.house import TACIT, House
from lab.network import Host, Network
from lab.processes import Lab, Started, send, wait_until
from shared.plan import PrivacyPlan

PORT = 9092
# The house whose SuperNode runs as another user; a certificate that it can read is its own copy.
TWO_USERS = "books"
PACE = Path(__file__).with_name("pace")
# A run of the adapter alone: fewer messages than one with statistics.
ADAPTER_ALONE = (
    "privacy.popularity_share=0.0",
    "privacy.cooccurrence_share=0.0",
    "privacy.adapter_share=1.0",
)
SMALL = (
    "aggregation.mode=plain",
    "run.threads=1",
    "model.layers=1",
    "model.rank=2",
    "model.window=8",
    "privacy.delta=0.0002",
    "privacy.epsilon=0.5",
    "training.rounds=3",
    "server.min_replies=2",
    "server.round_timeout_s=60.0",
)


@dataclass
class Run:
    """A submitted run.

    Attributes:
        name: of its folder.
        folder: FED/runs/NAME.
        process: ``tacit server run``, which follows it.
    """

    name: str
    folder: Path
    process: Started

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What the ServerApp has reported, in order."""
        path = self.folder / "progress.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [event for event in found if not kind or event["event"] == kind]

    def rounds(self) -> dict[int, int]:
        """Replies that were used, by finished round."""
        return {event["round"]: event["replies"] for event in self.events("round")}

    def wait_for(self, kind: str) -> None:
        """Wait for the first event of a kind."""
        self.wait_until(lambda: self.events(kind), f"event {kind}")

    def wait_for_round(self, number: int) -> None:
        """Wait until a round has finished."""
        self.wait_until(lambda: number in self.rounds(), f"round {number} finished")

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait while the run goes on.

        Raises:
            RuntimeError: if it ended first.
        """

        def met() -> bool:
            if condition():
                return True
            if not self.process.running and not condition():
                raise RuntimeError(f"run {self.name} ended before: {what}\n{self.said()}")
            return False

        try:
            wait_until(met, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said()}") from error

    def finish(self) -> int:
        """Wait for its end; returns the exit status of ``tacit server run``."""
        return self.process.wait()

    def said(self) -> str:
        """The end of what the operator saw."""
        return self.process.text()[-6000:]

    def plan(self) -> PrivacyPlan:
        """Its privacy plan."""
        return PrivacyPlan.from_json(json.loads((self.folder / "plan.json").read_text())["plan"])


@dataclass
class Federation:
    """Server, houses and network.

    Attributes:
        lab: starts all processes.
        network: joins the hosts.
        host: of the SuperLink.
        folder: everything lies in it.
        quick: whether SuperNodes look for messages more often than Flower has it.
        dropouts: of secure sums, that may be lost in one; None: what leaves is plain.
        houses: by name.
        superlink: ``tacit server start``.
        key: of the server; what houses approve.
    """

    lab: Lab
    network: Network
    host: Host
    folder: Path
    quick: bool
    dropouts: int | None = None
    houses: dict[str, House] = field(default_factory=dict)
    superlink: Started | None = None
    key: str = ""
    _number: int = 0

    @property
    def fed(self) -> Path:
        """FED."""
        return self.folder / "fed"

    @property
    def heads(self) -> Path:
        """What the server has seen of ledgers."""
        return self.fed / "server" / "heads.jsonl"

    @property
    def ca(self) -> Path:
        """The federation's certificate authority."""
        return self.fed / "tls" / "ca.crt"

    @property
    def address(self) -> str:
        """Of the SuperLink, as houses reach it."""
        return f"{self.host.address}:{PORT}"

    def environment(self) -> dict[str, str]:
        """Of all processes of this federation."""
        found = {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TACIT_CACHE": str(self.folder / "cache"),
            "COLUMNS": "200",
        }
        return found | {"PYTHONPATH": str(PACE)} if self.quick else found

    def tacit(self, step: str, *arguments: str) -> Started:
        """Start ``tacit`` at the server."""
        return self.lab.start(
            "server", step, self.host.command(TACIT, *arguments), self.environment()
        )

    def done(self, step: str, *arguments: str) -> str:
        """Run ``tacit`` at the server to its good end; returns what it printed."""
        return finished(self.tacit(step, *arguments))

    def make(self) -> None:
        """Certificates and key, then the SuperLink."""
        said = self.done("certs", "server", "certs", str(self.fed), "--host", self.host.address)
        self.key = said.split("Federation key")[1].split()[0]
        self.start_superlink()

    def start_superlink(self) -> None:
        """``tacit server start``, until it answers."""
        self.superlink = self.tacit("superlink", "server", "start", str(self.fed))
        self.superlink.wait_for("SuperLink ready")

    def kill_superlink(self) -> None:
        """kill -9 of ``tacit server start`` and of the SuperLink under it."""
        assert self.superlink is not None
        found = self.lab.find("server.ops.gate", "server")
        self.superlink.kill()
        for process in found:
            send(process, signal.SIGKILL)

    def join(self, shops: dict[str, Shop]) -> None:
        """Take houses in: init, approve, register, agent and SuperNode of each."""
        base = self.folder / "base"
        write_tiny_base(base)
        for name, shop in shops.items():
            self.houses[name] = House(
                name,
                shop,
                self.lab,
                self.network.add(name),
                self.folder / name,
                base,
                self.environment(),
                two_users=name == TWO_USERS,
            )
        houses = list(self.houses.values())
        for started in [house.init(*self._secure(len(houses))) for house in houses]:
            finished(started)
        known = [house.key for house in houses] if self.dropouts is not None else []
        for started in [house.approve(self.key, *known) for house in houses]:
            finished(started)
        keys = []
        for house in houses:
            keys.append(str(house.node_folder / "key.pub"))
            shutil.copy(self.ca, house.node_folder / "ca.crt")
        self.done("register", "server", "register", str(self.fed), *keys)
        for house in houses:
            house.start_agent()
            house.start_node(self.address)
        for house in houses:
            house.agent_ready()

    def _secure(self, number: int) -> tuple[str, ...]:
        """Options of ``tacit client init`` for secure sums of so many."""
        if self.dropouts is None:
            return ()
        chosen = ("--aggregation", "secure", "--organisations", str(number))
        return (*chosen, "--dropouts", str(self.dropouts))

    def nodes(self) -> dict[str, str]:
        """State of each registered SuperNode, by name."""
        found = json.loads(self.done("status", "server", "status", str(self.fed), "--json"))
        return {node["name"]: node["status"] for node in found["nodes"]}

    def run(self, *options: str, adapter_alone: bool = True, name: str = "") -> Run:
        """``tacit server run`` with the small settings and those given."""
        self._number += 1
        name = name or f"run{self._number}"
        base = next(iter(self.houses.values())).base
        values = [*SMALL, f"base.name={base}", *(ADAPTER_ALONE if adapter_alone else ())]
        if self.dropouts is not None:
            values += ["aggregation.mode=secure", f"aggregation.dropouts={self.dropouts}"]
        values += options
        process = self.tacit(
            *(name, "server", "run", str(self.fed), "--name", name),
            *("--orgs", str(len(self.houses)), "--wait", "90"),
            *(part for value in values for part in ("--set", value)),
        )
        return Run(name, self.fed / "runs" / name, process)

    def resume(self, run: Run) -> Run:
        """``tacit server run --resume``."""
        process = self.tacit(
            f"{run.name}-resumed", "server", "run", str(self.fed), "--resume", run.name
        )
        return Run(run.name, run.folder, process)

    def server_apps(self) -> list[int]:
        """Flower's ServerApp processes."""
        return self.lab.find("flwr-serverapp", "server")

    def flwr(self, *arguments: str) -> str:
        """One of Flower's own commands at the server, which may fail."""
        environment = self.environment() | {
            "FLWR_HOME": str(self.fed / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        flwr = str(Path(sys.executable).with_name("flwr"))
        started = self.lab.start("server", "flwr", self.host.command(flwr, *arguments), environment)
        started.wait()
        return started.text()

    def stop_runs(self) -> None:
        """Stop whatever still runs."""
        for run in self.flower_runs():
            if not run["status"].startswith("finished"):
                self.flwr("stop", run["run-id"], "tacit")

    def flower_runs(self) -> list[dict[str, Any]]:
        """All runs, as Flower lists them."""
        text = self.flwr("list", "tacit", "--format", "json")
        found: list[dict[str, Any]] = json.loads(text[text.index("{") :])["runs"]
        return found

    def heal(self) -> None:
        """Put everything back as it should be before the next test."""
        for house in self.houses.values():
            house.host.restore()
            for pid in self.lab.find("", house.name):
                send(pid, signal.SIGCONT)
        if self.superlink is None or not self.superlink.running:
            self.start_superlink()
        self.stop_runs()
        for house in self.houses.values():
            if house.agent is None or not house.agent.running:
                house.start_agent()
            if house.node is None or not house.node.running:
                house.start_node(self.address)
        for house in self.houses.values():
            house.agent_ready()

    def sound(self, run: Run) -> None:
        """Assert what must hold of every ledger after every fault.

        No fault in any ledger, in the server's eyes too; nothing spent twice; no more spent by the
        run than its plan has; nothing released without its intent.
        """
        plan = run.plan()
        for house in self.houses.values():
            found = house.verified(self.heads)
            assert not found.faults, (house.name, found.faults)
            intents = house.intents(run.name)
            asked = [(each.run, each.round, each.mechanism) for each in intents]
            assert len(asked) == len(set(asked)), (house.name, asked)
            assert {each.plan for each in intents} <= {plan.sha256}
            assert sum(each.count for each in intents if each.mechanism == "step") <= plan.steps
            paid = {f"{each.run}/{each.round}/{each.mechanism}" for each in intents}
            assert {request for request, _ in house.releases(run.name)} <= paid
            assert found.budget is not None
            assert found.spent[0].pld <= found.budget


def finished(started: Started) -> str:
    """What a command has printed; it must have ended well."""
    status = started.wait()
    assert status == 0, f"{started.name}: exit status {status}\n{started.text()}"
    return started.text()

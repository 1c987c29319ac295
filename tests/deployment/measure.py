"""Measures a deployment on this machine against a simulation of the same federation.

Prints seconds to ready, seconds and bytes a round, and what memory and open files do. Run as
``python tests/deployment/measure.py --rounds 20``; it needs root, as the tests do.
"""

import argparse
import itertools
import os
import shutil
import statistics as numbers
import sys
import tempfile
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp

sys.path.insert(0, str(Path(__file__).parent))

from lab.federation import ADAPTER_ALONE, SMALL, Federation, Run
from lab.goods import Shop
from lab.network import Network
from lab.processes import Lab, wait_until

from client.gate import Gate
from client.organisation import Organisation
from server.app import run_federation
from server.observers import Observer, RoundReport, observed_by
from shared.config import load_config
from shared.errors import TacitError
from shared.messages import KINDS
from shared.wire import REFUSED, from_records, to_records
from simulations.engine import InProcessGrid


class Seconds(Observer):
    """Keeps the length of every round."""

    def __init__(self) -> None:
        self.rounds: list[float] = []

    def round_finished(self, report: RoundReport) -> None:
        self.rounds.append(report.seconds)


def simulated(federation: Federation, scratch: Path, values: list[str]) -> list[float]:
    """Seconds of each round of the same organisations in this process."""
    gates = {}
    for number, (name, house) in enumerate(federation.houses.items()):
        copy = scratch / name / "org"
        shutil.copytree(house.org, copy)
        gates[number] = Gate(Organisation(copy))
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        gate = gates[int(str(context.node_config["partition-id"]))]
        try:
            request = from_records(message.content, "request")
            reply = gate.ask(message.metadata.message_type, request)
        except TacitError as error:
            return Message(Error(REFUSED, str(error)), reply_to=message)
        return Message(to_records(reply, "reply"), reply_to=message)

    for kind in KINDS:
        category, _, action = kind.partition(".")
        getattr(app, category)(*([action] if action else []))(answer)
    watch = Seconds()
    config = load_config(None, values, {})
    grid = InProcessGrid(app, {}, len(gates))
    # The same key, but not its memory of ledgers: those here are copies that go their own way.
    server = scratch / "server"
    server.mkdir()
    shutil.copy(federation.fed / "server" / "server.pem", server)
    with observed_by(watch):
        run_federation(grid, config, scratch / "run", scratch.name, server)
    return watch.rounds


def deployed(
    federation: Federation, values: list[str]
) -> tuple[Run, float, list[float], list[list[int]], list[str]]:
    """A run; seconds to its start; seconds and bytes of each round; how processes grew."""
    started = time.monotonic()
    run = federation.run(*values)
    run.wait_for("started")
    to_first = time.monotonic() - started
    seen: list[list[int]] = []
    sizes = {name: [] for name in processes(federation)}
    counted = 0
    while run.process.running:
        if len(run.rounds()) > counted:
            counted = len(run.rounds())
            moved = [house.host.bytes_received_and_sent() for house in federation.houses.values()]
            seen.append([sum(each) for each in moved])
            for name, pid in processes(federation).items():
                sizes[name].append((memory_mib(pid), files(pid)))
        time.sleep(0.2)
    assert run.finish() == 0, run.said()
    seconds = [float(event["seconds"]) for event in run.events("round")]
    bytes_a_round = [
        [after - before for before, after in zip(first, second, strict=True)]
        for first, second in itertools.pairwise(seen)
    ]
    growth = []
    for name, found in sizes.items():
        first, last = found[min(4, len(found) - 1)], found[-1]
        growth.append(
            f"{name}: {first[0]:.0f} -> {last[0]:.0f} MiB, {first[1]} -> {last[1]} open files"
        )
    return run, to_first, seconds, bytes_a_round, growth


def processes(federation: Federation) -> dict[str, int]:
    """Those that live through all runs."""
    films = federation.houses["films"]
    (superlink,) = federation.lab.find("server.ops.gate", "server")
    return {
        "agent": films.agent_process.pid,
        "SuperNode": films.supernode(),
        "SuperLink": superlink,
    }


def memory_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1024**2


def files(pid: int) -> int:
    """Open files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def measure(federation: Federation, rounds: int, users: list[int]) -> None:
    """Make the federation, then simulate and deploy in turn."""
    began = time.monotonic()
    federation.make()
    print(f"tacit server certs and start: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    shops = {
        kind: Shop(kind, n) for kind, n in zip(("films", "books", "tools"), users, strict=True)
    }
    federation.join(shops)
    print(f"three organisations, from init to agents that listen: {time.monotonic() - began:.1f} s")
    films = federation.houses["films"]
    films.agent_process.terminate()
    began = time.monotonic()
    films.start_agent()
    films.agent_ready()
    print(f"tacit client agent to listening: {time.monotonic() - began:.1f} s")
    films.node_process.terminate()
    began = time.monotonic()
    films.start_node(federation.address)
    films.node_process.wait_for("SuperNode ID")
    print(f"tacit client node to joined: {time.monotonic() - began:.1f} s")
    wait_until(lambda: list(federation.nodes().values()) == ["online"] * 3, "all are online")
    values = [f"training.rounds={rounds}"]
    base = [*SMALL, *ADAPTER_ALONE, f"base.name={films.base}", "partition.organisations=3"]
    for turn in range(2):
        with tempfile.TemporaryDirectory(prefix=f"sim{turn}-") as scratch:
            spent = simulated(federation, Path(scratch), [*base, *values])
        print(f"simulated: {numbers.median(spent):.2f} s a round (median of {len(spent)})")
        run, to_first, seconds, moved, growth = deployed(federation, values)
        print(
            f"deployed: {numbers.median(seconds):.2f} s a round (median of {len(seconds)}; "
            f"{min(seconds):.2f} to {max(seconds):.2f}), {to_first:.1f} s from submission to start"
        )
        for place, name in enumerate(federation.houses):
            both = [each[place] for each in moved]
            print(f"  {name}: {numbers.median(both):.0f} bytes a round on its link, both ways")
        adapter = (run.folder / "adapter" / "adapter_model.safetensors").stat().st_size
        print(f"  the adapter itself: {adapter} bytes; " + "; ".join(growth))


def main() -> None:
    """Parse options; leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--users", type=int, nargs=3, default=[300, 200, 100])
    parser.add_argument("--quick", action="store_true", help="SuperNodes look every 0.3 s")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tacit-lab-"))
    folder.chmod(0o711)
    lab = Lab(f"{os.getpid()}-measure", folder / "logs")
    network = Network(f"tacit-{os.getpid()}")
    try:
        network.make()
        federation = Federation(lab, network, network.add("link"), folder, options.quick)
        measure(federation, options.rounds, options.users)
    finally:
        lab.end_all()
        network.remove()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

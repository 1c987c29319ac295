"""Two hundred rounds at one agent process: memory and open files stay where they are.

The agent is the real one behind its real socket. Between server and courier stands the simulation's
in-process grid instead of Flower's SuperLink, which takes seconds a round.
"""

import statistics as numbers
from pathlib import Path

import pytest
from lab.federation import ADAPTER_ALONE, SMALL, Federation

import client.app
from server.app import run_federation
from server.observers import Observer, RoundReport, observed_by
from shared.config import load_config
from simulations.engine import InProcessGrid

pytestmark = pytest.mark.slow

ROUNDS = 200
SETTLED = 50
# Resident memory may wander by this much; 150 rounds that kept 100 KiB each would show.
MOST_GROWTH_MIB = 12.0


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1024**2


def open_files(pid: int) -> int:
    """Open files, sockets and pipes of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Watch(Observer):
    """Looks at a process after every round."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.memory: list[float] = []
        self.files: list[int] = []

    def round_finished(self, report: RoundReport) -> None:
        self.memory.append(resident_mib(self.pid))
        self.files.append(open_files(self.pid))


def test_an_agent_holds_memory_and_open_files_over_200_rounds(
    federation: Federation, tmp_path: Path
) -> None:
    tools = federation.houses["tools"]
    values = [
        *SMALL,
        *ADAPTER_ALONE,
        f"base.name={tools.base}",
        "partition.organisations=1",
        f"training.rounds={ROUNDS}",
        "server.min_replies=1",
    ]
    config = load_config(None, values, {})
    grid = InProcessGrid(client.app.app, {}, 1)
    for context in grid._contexts.values():
        context.node_config["agent"] = str(tools.socket)
    watch = Watch(tools.agent_process.pid)
    with observed_by(watch):
        run_federation(grid, config, tmp_path, "soak", federation.fed / "server")
    assert len(watch.memory) == ROUNDS
    early = numbers.median(watch.memory[SETTLED - 20 : SETTLED])
    late = numbers.median(watch.memory[-20:])
    assert late - early < MOST_GROWTH_MIB, (early, late)
    # A connection may just be open when we look; what is never closed is open at each of 20 looks.
    assert min(watch.files[-20:]) <= max(watch.files[:SETTLED])
    assert len(tools.intents("soak")) == ROUNDS
    assert not tools.verified(federation.heads).faults

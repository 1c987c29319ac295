"""tacit's own way: both engines of ``tacit simulate``."""

from dataclasses import dataclass, replace
from pathlib import Path

from client.data.partition import partition
from server.observers import Observer, RoundReport
from shared.adapters import Arrays
from shared.config import Config
from simulations.bench.peers.task import keep_adapter, read_task, round_finished
from simulations.federate import federate
from simulations.world import World, build_world


def peers_world(config: Config, users: int, scratch: Path) -> World:
    """The data of a run, or its first users alone, split into organisations.

    Args:
        config: of the run.
        users: how many; 0: all.
        scratch: folder for generated data.
    """
    world = build_world(config, scratch)
    histories = world.dataset.histories
    if not 0 < users < len(histories):
        return world
    few = replace(world.dataset, histories=histories.select(range(users)))
    options = config.partition
    parts = partition(few, options.scheme, options.organisations, config.run.seed)
    return World(config, few, tuple(parts))


@dataclass
class _Watch(Observer):
    """Notes when rounds end, and keeps the last adapter."""

    out: Path

    def round_finished(self, report: RoundReport) -> None:
        round_finished(self.out)

    def finished(self, adapter: Arrays, reliability: float) -> None:
        keep_adapter(self.out, adapter)


def run(folder: Path, out: Path, engine: str) -> None:
    """Run the federation on one of our engines.

    Args:
        folder: of the task.
        out: gets the times of rounds and the adapter.
        engine: ``in-process`` or ``ray``.
    """
    task = read_task(folder)
    options = task.config.run.model_copy(update={"engine": engine})
    config = task.config.model_copy(update={"run": options})
    federate(peers_world(config, task.users, folder), config, out / "run", "peers", [_Watch(out)])

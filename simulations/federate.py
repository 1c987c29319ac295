"""One federation from start to end on a world: agents, engine, apps, outcome."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

import client.app
import server.app
from client.directory import register, release
from server.observers import Observer, observed_by
from shared.adapters import Arrays
from shared.config import Config, to_run_config
from shared.delivery import statistics_from_arrays
from shared.plan import PrivacyPlan
from shared.scoring import Scorer
from shared.statistics import Statistics
from simulations.engine import run_in_process, run_on_ray
from simulations.world import World


@dataclass(frozen=True)
class Outcome:
    """What a federation produced.

    Attributes:
        plan: what every organisation released.
        statistics: delivered, in the order of the catalogue.
        adapter: delivered; None where there were no adapter rounds.
        reliability: share of signal in it.
        seconds: wall time.
        client_seconds: of it, spent in clients (in-process engine only).
    """

    plan: PrivacyPlan
    statistics: Statistics
    adapter: Arrays | None
    reliability: float
    seconds: float
    client_seconds: float | None


@dataclass
class _Keeper:
    """Observer that keeps what the outcome needs."""

    plan: PrivacyPlan | None = None
    adapter: Arrays | None = None
    reliability: float = 0.0

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        self.plan = plan

    def statistics_ready(self, arrays: object) -> None:
        return

    def round_finished(self, report: object) -> None:
        return

    def finished(self, adapter: Arrays, reliability: float) -> None:
        self.adapter, self.reliability = adapter, reliability


def federate(
    world: World,
    config: Config,
    directory: Path,
    run: str,
    observers: Sequence[Observer] = (),
) -> Outcome:
    """Run one federation, or go on with the one that ``directory`` holds.

    Args:
        world: data and organisations; its own configuration is not used.
        config: of this federation.
        directory: its run folder.
        run: identifier, the same when a run is resumed.
        observers: are told of each stage.
    """
    started = time.perf_counter()
    keeper = _Keeper()
    nodes = len(world.organisations)
    run_config = to_run_config(config) | {"tacit.directory": str(directory), "tacit.run": run}
    client_seconds = None
    with observed_by(*observers, keeper):
        if config.run.engine == "ray":
            world.write_organisations(config, directory)
            threads = config.run.threads or 1
            run_on_ray(server.app.app, client.app.app, run_config, nodes, threads)
        else:
            agents = world.agents(config, directory)
            try:
                for agent in agents:
                    register(agent)
                grid = run_in_process(server.app.app, client.app.app, run_config, nodes)
                client_seconds = grid.client_seconds
            finally:
                for agent in agents:
                    release(agent)
    assert keeper.plan is not None
    return Outcome(
        keeper.plan,
        read_statistics(world, directory),
        keeper.adapter if config.training.rounds else None,
        keeper.reliability,
        time.perf_counter() - started,
        client_seconds,
    )


def read_statistics(world: World, directory: Path) -> Statistics:
    """The statistics of a run folder, in the order of the world's catalogue."""
    arrays = load_file(directory / "statistics" / "statistics.safetensors")
    return statistics_from_arrays(arrays, world.dataset.catalogue)


def scorer(
    world: World,
    config: Config,
    statistics: Statistics,
    adapter: Arrays | None = None,
    reliability: float = 0.0,
) -> Scorer:
    """Scores of the whole catalogue with what a federation delivered."""
    loaded = world.loaded
    return Scorer(
        config, statistics, world.vectors, adapter, loaded.model, loaded.runtime, reliability
    )


def outcome_scorer(world: World, config: Config, outcome: Outcome) -> Scorer:
    """``scorer`` of a finished federation."""
    return scorer(world, config, outcome.statistics, outcome.adapter, outcome.reliability)

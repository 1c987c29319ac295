"""One federation from start to end on a world: agents, engine, apps, outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import client.app
import server.app
from client.directory import register, release, training_seconds
from server.observers import Observer, RoundReport, observed_by
from shared.adapters import Arrays
from shared.config import Config, to_run_config
from shared.delivery import statistics_from_arrays
from shared.plan import PrivacyPlan
from shared.scoring import Scorer
from shared.statistics import Statistics
from shared.wire import AnyArrays
from simulations.engine import run_in_process, run_on_ray
from simulations.world import World


@dataclass(frozen=True)
class Outcome:
    """What a federation produced.

    Attributes:
        plan: what every organisation released.
        statistics: delivered, in the order of the catalogue.
        by_key: the same as it was sent, for a catalogue of another order or with other items.
        adapter: delivered; None where there were no adapter rounds.
        reliability: share of signal in it.
    """

    plan: PrivacyPlan
    statistics: Statistics
    by_key: AnyArrays
    adapter: Arrays | None
    reliability: float


@dataclass
class _Keeper(Observer):
    """Keeps what the outcome needs."""

    plan: PrivacyPlan | None = None
    statistics: AnyArrays | None = None
    adapter: Arrays | None = None
    reliability: float = 0.0

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        self.plan = plan

    def statistics_ready(self, arrays: AnyArrays) -> None:
        self.statistics = arrays

    def finished(self, adapter: Arrays, reliability: float) -> None:
        self.adapter, self.reliability = adapter, reliability


class TrainingClock:
    """Tells what a round took besides private steps; only of agents in this process."""

    def __init__(self) -> None:
        self._trained_s = 0.0

    def start(self) -> None:
        """Count from here."""
        self._trained_s = training_seconds()

    def overhead_s(self, report: RoundReport) -> float:
        """Seconds of the round just finished that were not private steps."""
        before = self._trained_s
        self.start()
        return report.seconds - (self._trained_s - before)


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
    keeper = _Keeper()
    nodes = len(world.organisations)
    threads = config.run.threads
    if config.run.engine == "ray" and not threads:
        # An actor has one core: with the threads of all they would stand in each other's way.
        threads = 1
        config = config.model_copy(update={"run": config.run.model_copy(update={"threads": 1})})
    run_config = to_run_config(config) | {"tacit.directory": str(directory), "tacit.run": run}
    world.write_organisations(config, directory)
    with observed_by(*observers, keeper):
        if config.run.engine == "ray":
            run_on_ray(server.app.app, client.app.app, run_config, nodes, threads)
        else:
            agents = world.agents(config, directory)
            try:
                for agent in agents:
                    register(agent)
                run_in_process(server.app.app, client.app.app, run_config, nodes)
            finally:
                for agent in agents:
                    release(agent)
    assert keeper.plan is not None
    assert keeper.statistics is not None
    return Outcome(
        keeper.plan,
        statistics_from_arrays(keeper.statistics, world.dataset.catalogue),
        keeper.statistics,
        keeper.adapter if config.training.rounds else None,
        keeper.reliability,
    )


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

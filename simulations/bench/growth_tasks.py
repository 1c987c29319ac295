"""What ``tacit bench growth`` times, each size in a process of its own."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from client.data.partition import partition
from client.data.store import read_store, write_store
from client.directory import trainable_model
from server.observers import Observer, RoundReport
from shared.catalogue import Catalogue
from shared.columns import UserIds
from shared.config import Config
from shared.encoder import centred
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.statistics import cooccurrence_sum, most_popular, popularity_sum
from shared.user_model import item_tensor
from simulations.bench.made_up import even_histories, short_dataset
from simulations.bench.memory import watched
from simulations.bench.passes import full_step
from simulations.federate import federate
from simulations.variants import plain_sums, with_sections
from simulations.world import World

STORE = "histories.duckdb"
USERS_PER_BLOCK = 4096
SHORTEST, LONGEST = 20, 80
FIRST_TIME_S, GAP_S = 1.5e9, 3600.0


@dataclass(frozen=True)
class Sizes:
    """What stays as it is while one size grows.

    Attributes:
        step_users: who enter a private step, on average.
        items: of the catalogue where it does not grow.
        rounds: timed of each number of organisations.
        repeats: of a private step; medians are reported.
    """

    step_users: int = 16
    items: int = 10_000
    rounds: int = 3
    repeats: int = 3


@dataclass(frozen=True)
class Timed:
    """One thing done: seconds, and the most memory meanwhile in MB of 10**6 bytes."""

    what: str
    seconds: float
    resident_mb: float
    anonymous_mb: float


@dataclass
class _Times:
    kept: list[Timed] = field(default_factory=list)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        with watched() as peak:
            started = time.perf_counter()
            yield
            seconds = time.perf_counter() - started
        self.kept.append(Timed(what, seconds, peak.resident_mb, peak.anonymous_mb))

    def of_step(self, step: Callable[[], None], repeats: int) -> None:
        """Median of several, after one that is not counted."""
        seconds = []
        with watched() as peak:
            for _ in range(repeats + 1):
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
        median = statistics.median(seconds[1:])
        self.kept.append(Timed("step", median, peak.resident_mb, peak.anonymous_mb))


def write_users(folder: Path, users: int, sizes: Sizes) -> list[Timed]:
    """Make up an organisation's histories on disk, block by block, and write its store."""
    times = _Times()
    with times.of("write"):
        histories = made_up(users, sizes.items, folder)
        names = tuple(f"item-{i}" for i in range(sizes.items))
        write_store(folder / STORE, "bench", Catalogue(names, names, {}), histories)
    return times.kept


def use_users(config: Config, folder: Path, users: int, sizes: Sizes) -> list[Timed]:
    """Open the store, make both statistics, and take private steps of equally many users."""
    times = _Times()
    with times.of("open"):
        _, histories = read_store(folder / STORE)
    with times.of("P"):
        popular = popularity_sum(histories, sizes.items)
    top = most_popular(popular, 0.0, config.statistics)
    with times.of("G"):
        cooccurrence_sum(histories, top, config.statistics)
    rate = min(1.0, sizes.step_users / users)
    times.of_step(_step(config, histories, sizes.items, rate), sizes.repeats)
    return times.kept


def use_items(config: Config, items: int, sizes: Sizes) -> list[Timed]:
    """Take private steps over a catalogue of random unit vectors."""
    times = _Times()
    length = config.model.window + 1
    histories = even_histories(sizes.step_users, length, items, np.random.default_rng(0))
    times.of_step(_step(config, histories, items, 1.0), sizes.repeats)
    return times.kept


def use_history(config: Config, window: int, sizes: Sizes) -> list[Timed]:
    """Take private steps on histories that fill the window."""
    times = _Times()
    longer = config.model_copy(update={"model": config.model.model_copy(update={"window": window})})
    histories = even_histories(sizes.step_users, window + 1, sizes.items, np.random.default_rng(0))
    times.of_step(_step(longer, histories, sizes.items, 1.0), sizes.repeats)
    return times.kept


def use_organisations(config: Config, organisations: int, sizes: Sizes) -> list[Timed]:
    """Run whole rounds of organisations with four short histories each, in this process."""
    small = with_sections(
        config,
        partition={"organisations": organisations, "scheme": "iid"},
        training={"rounds": sizes.rounds + 1},
        run={"engine": "in-process"},
        **plain_sums(config),
    )
    dataset = short_dataset(organisations)
    parts = partition(dataset, "iid", organisations, config.run.seed)
    clock = _Rounds()
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as scratch, watched() as peak:
        started = time.perf_counter()
        federate(World(small, dataset, tuple(parts)), small, Path(scratch), "growth", [clock])
        whole = time.perf_counter() - started
    # The first round loads the model.
    round_s = statistics.median(clock.seconds[1:])
    return [
        Timed(what, seconds, peak.resident_mb, peak.anonymous_mb)
        for what, seconds in (("round", round_s), ("the rest", whole - sum(clock.seconds)))
    ]


def made_up(users: int, items: int, folder: Path) -> PrivateHistories:
    """Histories of 20 to 80 interactions, on disk where they are large; equal for equal sizes."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(SHORTEST, LONGEST + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def columns() -> Iterator[Sequence[npt.NDArray[Any]]]:
        for first in range(0, users, USERS_PER_BLOCK):
            last = min(first + USERS_PER_BLOCK, users)
            count = int(offsets[last] - offsets[first])
            # Popular items first, as real ones are.
            yield (
                (items * generator.random(count) ** 3).astype(np.int64),
                FIRST_TIME_S + GAP_S * np.arange(count),
            )

    def ids() -> Iterator[pa.Array]:
        for first in range(0, users, USERS_PER_BLOCK):
            block = range(first, min(first + USERS_PER_BLOCK, users))
            yield pa.array([f"user-{user}" for user in block], pa.large_string())

    user_ids = UserIds.stacked(ids(), folder)
    return PrivateHistories.stacked(user_ids, offsets, columns(), False, folder)


@dataclass
class _Rounds(Observer):
    seconds: list[float] = field(default_factory=list)

    def round_finished(self, report: RoundReport) -> None:
        self.seconds.append(report.seconds)


def _step(
    config: Config, histories: PrivateHistories, items: int, rate: float
) -> Callable[[], None]:
    loaded = load_model(config)
    ready, runtime = trainable_model(loaded), loaded.runtime
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((items, loaded.hidden_size), dtype=np.float32)
    catalogue = item_tensor(centred(vectors), runtime.device, runtime.precision)
    return full_step(config, ready, histories, catalogue, rate)

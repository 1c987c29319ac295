"""``tacit bench profile``: where a federation's time goes, before the rounds and inside them."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.directory import trainable_model
from server.observers import Observer, RoundReport
from shared.config import Config
from shared.encoder import TextEncoder
from shared.plan import PrivacyPlan
from shared.stages import stage_calls
from shared.wire import AnyArrays
from simulations.federate import federate
from simulations.records import RoundRecord
from simulations.timing import StageClock, stage_shares
from simulations.world import build_world

FIRST = "first time"
ROUND = "a round"


@dataclass(frozen=True)
class ProfileRow:
    """A part of a federation's time.

    Attributes:
        part: ``first time``, or ``a round``.
        stage: what a person reads.
        seconds: once, or in a round: mean over rounds.
        share: of the part's time.
        calls: in a round; None where nothing counts them.
    """

    part: str
    stage: str
    seconds: float
    share: float
    calls: float | None


def measure(config: Config, told: Callable[[str], None] = lambda _: None) -> list[ProfileRow]:
    """Run a federation in this process and say what its time went to.

    Args:
        config: of the federation; a private run without its twin and without evaluations.
        told: is told what runs next.
    """
    watch = _Watch(told, config.training.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with watch.part("Reading data"):
            world = build_world(config, directory)
        with watch.part("Loading the model"):
            loaded = world.loaded
        with watch.part("Item vectors, none kept yet"):
            TextEncoder(loaded.encoder, loaded.runtime).encode(world.dataset.catalogue.texts)
        world.encode()
        with watch.part("Item vectors, kept on disk"):
            _ = world.vectors
        with watch.part("Checks of gradients and of a saved adapter"):
            trainable_model(loaded)
        with watch.part("Organisations' folders"):
            world.write_organisations(config, directory)
        watch.begin("Joining, the plan and its noise")
        federate(world, config, directory, "bench-profile", [watch])
    whole = sum(watch.seconds.values())
    first = [ProfileRow(FIRST, name, s, s / whole, None) for name, s in watch.seconds.items()]
    rounds = [
        ProfileRow(ROUND, s.label, s.seconds, s.share, watch.calls.get(s.name))
        for s in stage_shares(watch.rounds)
    ]
    return [*first, *rounds]


@dataclass
class _Watch(Observer):
    """Times the parts before the rounds, and the stages of the rounds."""

    told: Callable[[str], None]
    planned_rounds: int
    seconds: dict[str, float] = field(default_factory=dict)
    rounds: list[RoundRecord] = field(default_factory=list)
    clock: StageClock = field(default_factory=StageClock)
    calls: dict[str, float] = field(default_factory=dict)
    _name: str = ""
    _began: float = 0.0
    _calls: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.begin(name)
        yield
        self.end()

    def begin(self, name: str) -> None:
        """Time from here."""
        self.told(name)
        self._name, self._began = name, time.perf_counter()

    def end(self) -> None:
        """To here."""
        self.seconds[self._name] = time.perf_counter() - self._began

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        self.end()
        self.begin("Judging the plan, statistics and their delivery")

    def statistics_ready(self, arrays: AnyArrays) -> None:
        self.end()
        self.told(f"Round 1 of {self.planned_rounds}")
        self.clock.taken()
        self._calls = stage_calls()

    def round_finished(self, report: RoundReport) -> None:
        record = RoundRecord(
            run="private",
            round=report.round,
            rounds=report.rounds,
            epsilon=None,
            seconds=report.seconds,
            update_norm=report.update_norm,
            replies=report.replies,
            stages=self.clock.taken(),
        )
        self.rounds.append(record)
        self.told(f"Round {report.round + 1} of {report.rounds}")
        self.calls = {
            name: (count - self._calls.get(name, 0)) / len(self.rounds)
            for name, count in stage_calls().items()
        }

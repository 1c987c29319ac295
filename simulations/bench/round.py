"""``tacit bench round``: what a round costs besides training, and how long the first one takes."""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from client.data.partition import partition
from server.observers import Observer, RoundReport
from shared.config import Config
from shared.errors import RunError
from shared.plan import PrivacyPlan
from shared.sections import to_toml
from simulations.bench.made_up import short_dataset
from simulations.federate import TrainingClock, federate
from simulations.records import RoundRecord, read_records
from simulations.variants import sums_among, with_sections
from simulations.world import World

POLL_S = 0.01
LIMIT_S = 1800.0


@dataclass(frozen=True)
class RoundRow:
    """One measured time.

    Attributes:
        name: ``overhead``, a round's wall time less its private steps; or ``first_round``, from the
            start of ``tacit simulate`` to its first finished round.
        data: what was trained on.
        organisations: that took part.
        samples: how many times it was measured.
        median_s, least_s, greatest_s: over the samples, seconds.
    """

    name: str
    data: str
    organisations: int
    samples: int
    median_s: float
    least_s: float
    greatest_s: float


def overhead(config: Config, organisations: int = 8, rounds: int = 20) -> RoundRow:
    """Time rounds in this process on histories so short that training takes little.

    One more round runs before the measured ones: it loads the model.

    Args:
        config: base, model, privacy and server; its data and partition are not used.
        organisations: that take part.
        rounds: measured.
    """
    small = with_sections(
        config,
        partition={"organisations": organisations, "scheme": "iid"},
        training={"rounds": rounds + 1},
        run={"engine": "in-process"},
        **sums_among(config, organisations),
    )
    dataset = short_dataset(organisations)
    parts = partition(dataset, "iid", organisations, small.run.seed)
    world = World(small, dataset, tuple(parts))
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        federate(world, small, Path(scratch), "bench-round", [clock])
    return _row("overhead", dataset.name, organisations, clock.seconds[1:])


def first_round(config: Config, samples: int = 3) -> RoundRow:
    """Time from the start of the process to the first finished round, caches warm.

    One more start runs before the measured ones: it fills the cache of item vectors.

    Args:
        config: of the run; ``data.source`` says what is trained on.
        samples: starts to time.

    Raises:
        RunError: if the command ends, or ``LIMIT_S`` pass, before a round is finished.
    """
    times = [_start(config) for _ in range(samples + 1)]
    data = Path(config.data.source).name
    return _row("first_round", data, config.partition.organisations, times[1:])


@dataclass
class _Clock(Observer):
    """Keeps what each round took besides private steps, seconds."""

    seconds: list[float] = field(default_factory=list)
    clock: TrainingClock = field(default_factory=TrainingClock)

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        self.clock.start()

    def round_finished(self, report: RoundReport) -> None:
        self.seconds.append(self.clock.overhead_s(report))


def _start(config: Config) -> float:
    alone = with_sections(config, run={"noise_free_twin": False}, evaluation={"every_rounds": 0})
    with tempfile.TemporaryDirectory() as scratch:
        file, out = Path(scratch) / "config.toml", Path(scratch) / "run"
        errors = Path(scratch) / "errors.txt"
        file.write_text(to_toml(alone))
        command = [sys.executable, "-c", "from simulations.cli import main; main()", "simulate"]
        with errors.open("wb") as stream:
            started = time.perf_counter()
            process = subprocess.Popen(
                [*command, "--config", str(file), "--out", str(out)],
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
            try:
                while not _has_round(out / "metrics.jsonl"):
                    if process.poll() is not None or time.perf_counter() - started > LIMIT_S:
                        raise RunError(
                            f"tacit simulate finished no round (exit status {process.returncode}): "
                            f"{errors.read_text(errors='replace').strip()}"
                        )
                    time.sleep(POLL_S)
                return time.perf_counter() - started
            finally:
                process.terminate()
                process.wait()


def _has_round(path: Path) -> bool:
    return path.exists() and any(isinstance(r, RoundRecord) for r in read_records(path))


def _row(name: str, data: str, organisations: int, times: list[float]) -> RoundRow:
    return RoundRow(
        name, data, organisations, len(times), statistics.median(times), min(times), max(times)
    )

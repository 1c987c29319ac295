"""``tacit bench peers``: seconds and memory of a federated round, tacit's and its peers'."""

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import simulations
from shared.adapters import Arrays
from shared.config import Config
from shared.errors import RunError
from shared.plan import make_plan
from simulations.bench.peers.ours import peers_world
from simulations.bench.peers.processes import watched
from simulations.bench.peers.task import (
    ADAPTER,
    Task,
    rounds_finished,
    write_histories,
    write_items,
    write_task,
)
from simulations.variants import plain_sums, with_sections

OURS = "ours"
PFL = "pfl"
PFL_WORKERS = "pfl-workers"
ROOT = Path(simulations.__file__).parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

Report = Callable[[str], None]


@dataclass(frozen=True)
class PeerRow:
    """What rounds of one way took.

    Attributes:
        way: one of ``WAYS``.
        precision: of its matrix products.
        organisations, users: of the federation; ``users`` are all of them.
        rounds: timed; the first one of every process is not among them.
        first_round_s: from the start of the process to the end of its first round.
        round_s, least_s, greatest_s: median and range of the others.
        processor_s: median of the others, of all cores and processes together.
        times_ours: ``round_s`` over that of ``ours``; None where ``ours`` was not run.
        peak_mib: most that the process and its descendants held, proportional set size.
    """

    way: str
    precision: str
    organisations: int
    users: int
    rounds: int
    first_round_s: float
    round_s: float
    least_s: float
    greatest_s: float
    processor_s: float
    times_ours: float | None
    peak_mib: float


@dataclass(frozen=True)
class AgreementRow:
    """How far a way's adapter is from ours after the same rounds without noise.

    Attributes:
        way: one of ``WAYS``.
        difference: L2 norm of the difference over the norm of our adapter's change.
    """

    way: str
    difference: float


@dataclass(frozen=True)
class _Run:
    """One process of a way: wall and processor seconds of its rounds, memory, adapter."""

    seconds: list[float]
    processor_s: list[float]
    peak_mib: float
    adapter: Arrays


def available(ways: Sequence[str], peers_python: Path = PEERS_PYTHON) -> tuple[list[str], str]:
    """Those ways that can run here, and what to do about the others (empty: nothing).

    Args:
        ways: asked for.
        peers_python: of the environment with pfl.

    Raises:
        RunError: if none can.
    """
    found = [way for way in ways if way not in (PFL, PFL_WORKERS)]
    if len(found) == len(ways) or peers_python.exists():
        return list(ways), ""
    left_out = f"{PFL} is left out: it needs an environment of its own; run make bench-peers"
    if not found:
        raise RunError(f"{left_out} ({peers_python} is not there)")
    return found, left_out


def measure(
    config: Config,
    ways: Sequence[str],
    rounds: int,
    repeats: int,
    users: int,
    report: Report,
    peers_precision: str = "",
    peers_python: Path = PEERS_PYTHON,
) -> list[PeerRow]:
    """Time rounds of every way, each in processes of its own.

    Args:
        config: base, model, data, partition and privacy; statistics, evaluation and the server's
            optimiser are set to what all ways can do.
        ways: to run, of ``WAYS``.
        rounds: of a process that are timed; one more runs before them.
        repeats: processes of every way, the ways in turn.
        users: first so many of the data; 0: all.
        report: told what is being done.
        peers_precision: ``float32`` or ``bfloat16``; empty: that of the run, which is ours.
        peers_python: of the environment with pfl.

    Raises:
        RunError: if a way fails; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-peers-") as scratch:
        root = Path(scratch)
        task, count = prepare(comparable(config, rounds + 1), users, root, peers_precision)
        runs: dict[str, list[_Run]] = {way: [] for way in ways}
        for repeat, way in itertools.product(range(repeats), ways):
            report(f"Running {way} ({repeat + 1} of {repeats})")
            runs[way].append(_run(root, task, way, repeat, peers_python))
    rows: list[PeerRow] = []
    timed = {
        way: [seconds for run in found for seconds in run.seconds[1:]]
        for way, found in runs.items()
    }
    ours = statistics.median(timed[OURS]) if OURS in timed else None
    for way, found in runs.items():
        median = statistics.median(timed[way])
        rows.append(
            PeerRow(
                way,
                task.config.base.precision if way.startswith(OURS) else task.precision,
                task.config.partition.organisations,
                count,
                len(timed[way]),
                statistics.median(run.seconds[0] for run in found),
                median,
                min(timed[way]),
                max(timed[way]),
                statistics.median(s for run in found for s in run.processor_s[1:]),
                None if ours is None else median / ours,
                max(run.peak_mib for run in found),
            )
        )
    return rows


def agreement(
    config: Config,
    ways: Sequence[str],
    rounds: int,
    users: int,
    report: Report,
    peers_python: Path = PEERS_PYTHON,
) -> list[AgreementRow]:
    """Compare the adapters of all ways after the same rounds without noise.

    Args:
        config, ways, users, report, peers_python: as of ``measure``; ``ours`` runs in any case.
        rounds: of every way.
    """
    exact = with_sections(
        comparable(config, rounds), privacy={"noise": "none"}, base={"precision": "float32"}
    )
    with tempfile.TemporaryDirectory(prefix="tacit-peers-") as scratch:
        root = Path(scratch)
        task, _ = prepare(exact, users, root)
        adapters = {}
        for way in dict.fromkeys((OURS, *ways)):
            report(f"Running {way}")
            adapters[way] = _run(root, task, way, 0, peers_python).adapter
    # B starts at zero, so what our adapter holds is its change.
    ours = _flat(adapters[OURS])
    return [
        AgreementRow(way, float(np.linalg.norm(_flat(found) - ours) / np.linalg.norm(ours)))
        for way, found in adapters.items()
    ]


def comparable(config: Config, rounds: int) -> Config:
    """The run that all ways can do: adapter rounds alone, one full-batch step in each.

    Gradients are clipped flat and updates are averaged, as Opacus, FedAvg and pfl do it.
    """
    plain = plain_sums(config)
    return with_sections(
        config,
        run={"engine": "in-process", "noise_free_twin": False, "organisations": ""},
        model={"adapter": "ffa-lora", "rating_weight": 0.0, "warm_start": ""},
        privacy=plain["privacy"]
        | {
            "popularity_share": 0.0,
            "cooccurrence_share": 0.0,
            "adapter_share": 1.0,
            "evaluation_share": 0.0,
            "clipping": "flat",
            "distribution": "gaussian",
        },
        aggregation=plain["aggregation"],
        training={"rounds": rounds, "steps_per_round": 1, "sampling_rate": 1.0, "step_size": 1.0},
        server={"optimizer": "average", "iterate_average": 0.0},
        audit={"canaries": 0},
    )


def prepare(config: Config, users: int, root: Path, peers_precision: str = "") -> tuple[Task, int]:
    """Write the task's files; return its settings and how many users there are.

    The cache of item vectors is warm afterwards.
    """
    world = peers_world(config, users, root)
    loaded, parts = world.loaded, world.organisations
    runtime = loaded.runtime
    settled = with_sections(
        config, base={"precision": runtime.precision}, run={"device": runtime.device}
    )
    count = sum(len(part.users) for part in parts)
    plan = make_plan(config, count, len(parts))
    sigma = plan.mechanism("step").noise_multiplier
    precision = peers_precision or runtime.precision
    threads = config.run.threads or os.cpu_count() or 1
    task = Task(settled, loaded.encoder, precision, sigma, users, threads)
    write_task(root, task)
    write_items(root, world.dataset.catalogue.texts, world.vectors)
    for number, part in enumerate(parts):
        histories = world.test.train.select(part.users)
        write_histories(root, number, [histories.row(u) for u in range(len(histories))])
    return task, count


def _run(root: Path, task: Task, way: str, repeat: int, peers_python: Path) -> _Run:
    out = root / f"{way}-{repeat}"
    out.mkdir()
    # Every way takes the cores that it takes by itself.
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable]
    if way in (PFL, PFL_WORKERS):
        # tacit is not installed there.
        command, environment["PYTHONPATH"] = [str(peers_python)], str(ROOT)
    if way == PFL_WORKERS:
        workers = ("--standalone", "--nproc-per-node", str(task.threads))
        command += ["-m", "torch.distributed.run", *workers]
    command += ["-m", "simulations.bench.peers.start", way, str(root), str(out)]
    ended = watched(command, out / "log.txt", environment, way)
    times = np.array([ended.started, *rounds_finished(out)])
    used = np.interp(times, ended.usage[:, 0], ended.usage[:, 1])
    return _Run(
        np.diff(times).tolist(), np.diff(used).tolist(), ended.peak_mib, load_file(out / ADAPTER)
    )


def _flat(adapter: Arrays) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([adapter[name].ravel() for name in sorted(adapter)]).astype(np.float64)

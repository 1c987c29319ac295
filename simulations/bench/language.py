"""``tacit bench language``: a base as user model in several precisions: speed, memory, ranking.

Each precision has a process of its own, so that its memory is its own; the processes take turns.
"""

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.config import Config
from shared.devices import choose_runtime
from shared.metrics import Evaluation, paired_bootstrap
from shared.models import load_model
from simulations.bench.memory import watched
from simulations.bench.passes import Passes
from simulations.federate import federate, outcome_scorer
from simulations.methods import federated
from simulations.variants import with_sections
from simulations.world import build_world, fewer

PRECISIONS = ("float32", "bfloat16", "int8")
ITEMS = 1682


@dataclass(frozen=True)
class SpeedRow:
    """A number of layers in a precision, on made-up users with full windows.

    Attributes:
        layers: kept of the base.
        precision: as of ``base.precision``.
        step_rows_per_s: users a second of the private step, median over repeats.
        scoring_rows_per_s: users a second whose histories are read to score by them.
        step_to_float32, scoring_to_float32: these over those of float32; 0 where it did not run.
        held_mb: what the process holds for the model once it is loaded, mapped files included.
        scoring_mb, step_mb: most that it held while scoring, and in a private step.
        gradient_difference: largest relative one between a user's gradient under Opacus and alone.
    """

    layers: int
    precision: str
    step_rows_per_s: float
    scoring_rows_per_s: float
    step_to_float32: float
    scoring_to_float32: float
    held_mb: float
    scoring_mb: float
    step_mb: float
    gradient_difference: float


@dataclass(frozen=True)
class QualityRow:
    """How the adapter alone ranks after equal rounds without noise.

    Attributes:
        layers, precision: as of ``SpeedRow``.
        users, rounds, seeds: that were trained, for how long, how often.
        hr10, ndcg10: means over seeds.
        ndcg10_less_first: NDCG@10 less that of the first precision, same users and seeds.
        low, high: 95% interval of that over users, mean over seeds.
    """

    layers: int
    precision: str
    users: int
    rounds: int
    seeds: int
    hr10: float
    ndcg10: float
    ndcg10_less_first: float
    low: float
    high: float


def measure_speed(
    config: Config,
    layers: int,
    precisions: Sequence[str] = PRECISIONS,
    users: int = 16,
    repeats: int = 3,
    told: Callable[[str], None] = lambda _: None,
) -> list[SpeedRow]:
    """Time the private step and scoring in every precision in turn.

    Args:
        config: base, model and training.
        layers: kept of the base.
        precisions: as of ``base.precision``.
        users: rows of a step.
        repeats: of each; medians count.
        told: is told what runs next.
    """
    with ExitStack() as stack:
        told(f"Loading {layers} layers")
        pools = {name: stack.enter_context(_process()) for name in precisions}
        held = {
            name: pool.submit(_open, _of(config, layers, name), users).result()
            for name, pool in pools.items()
        }
        runs: dict[str, list[tuple[float, ...]]] = {name: [] for name in precisions}
        for repeat in range(repeats + 1):
            for name, pool in pools.items():
                told(f"{layers} layers in {name}, {repeat} of {repeats}")
                runs[name].append(pool.submit(_score_and_step).result())
    rows = []
    medians: dict[str, tuple[float, ...]] = {
        name: tuple(statistics.median(kind) for kind in zip(*found[1:], strict=True))
        for name, found in runs.items()
    }
    for name, (step_s, scoring_s, *_) in medians.items():
        reference = medians.get("float32", (0.0, 0.0))
        held_mb, difference = held[name]
        rows.append(
            SpeedRow(
                layers,
                name,
                users / step_s,
                users / scoring_s,
                reference[0] / step_s,
                reference[1] / scoring_s,
                held_mb,
                max(run[2] for run in runs[name]),
                max(run[3] for run in runs[name]),
                difference,
            )
        )
    return rows


def measure_quality(
    config: Config,
    layers: int,
    precisions: Sequence[str] = PRECISIONS,
    users: int = 300,
    rounds: int = 5,
    seeds: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> list[QualityRow]:
    """Train in every precision without noise, all users in each round, and rank for them.

    Args:
        config: data, base, model and server.
        layers: kept of the base.
        precisions: as of ``base.precision``; the others are compared with the first.
        users: of the data, drawn with ``run.seed``; 0: all.
        rounds: of training.
        seeds: of the adapter.
        told: is told what runs next.
    """
    found: dict[str, list[Evaluation]] = {name: [] for name in precisions}
    for seed in range(seeds):
        for name in precisions:
            told(f"{rounds} rounds of {layers} layers in {name}, draw {seed + 1} of {seeds}")
            drawn = _without_noise(_of(config, layers, name), rounds, seed)
            with _process() as pool:
                found[name].append(pool.submit(_ranked, drawn, users, config.run.seed).result())
    first = found[precisions[0]]
    rows = []
    for name, evaluations in found.items():
        pairs = zip(evaluations, first, strict=True)
        differences = [paired_bootstrap(a, b, "ndcg") for a, b in pairs]
        rows.append(
            QualityRow(
                layers,
                name,
                len(evaluations[0]),
                rounds,
                seeds,
                float(np.mean([e.hr for e in evaluations])),
                float(np.mean([e.ndcg for e in evaluations])),
                float(np.mean([d.mean for d in differences])),
                float(np.mean([d.low for d in differences])),
                float(np.mean([d.high for d in differences])),
            )
        )
    return rows


def _of(config: Config, layers: int, precision: str) -> Config:
    return config.model_copy(
        update={
            "base": config.base.model_copy(update={"precision": precision}),
            "model": config.model.model_copy(update={"layers": layers}),
        }
    )


def _without_noise(config: Config, rounds: int, seed: int) -> Config:
    return with_sections(
        config,
        run={"seed": seed, "engine": "in-process"},
        partition={"organisations": 1, "scheme": "iid"},
        privacy={"noise": "none"},
        aggregation={"mode": "plain"},
        training={"rounds": rounds},
    )


@contextmanager
def _process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


_opened: list[tuple[Passes, float]] = []


def _open(config: Config, users: int) -> tuple[float, float]:
    """In a process of its own: load the model; megabytes that it takes, and of its check."""
    choose_runtime(config.run.device, config.base.precision, config.run.threads)
    with watched() as before:
        pass
    load_model(config)
    with watched() as after:
        pass
    passes = Passes(config, users, ITEMS)
    _opened[:] = [(passes, before.resident_mb)]
    return after.resident_mb - before.resident_mb, passes.gradient_difference


def _score_and_step() -> tuple[float, float, float, float]:
    """Seconds of a step and of scoring, and most megabytes in scoring and in a step."""
    passes, before_mb = _opened[0]
    with watched() as scoring:
        scoring_s = passes.scoring_s()
    with watched() as step:
        step_s = passes.step_s()
    return step_s, scoring_s, scoring.resident_mb - before_mb, step.resident_mb - before_mb


def _ranked(config: Config, users: int, seed: int) -> Evaluation:
    with tempfile.TemporaryDirectory() as scratch:
        world = fewer(build_world(config, Path(scratch) / "data"), users, seed)
        outcome = federate(world, config, Path(scratch) / "run", "bench-language")
        return federated(world, "adapter", world.test, outcome_scorer(world, config, outcome))

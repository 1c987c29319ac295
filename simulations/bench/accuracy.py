"""``tacit bench accuracy``: how well every method ranks, over several noise draws."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from client.data.ingest import Dataset
from client.data.partition import partition
from shared.config import Config
from shared.metrics import Evaluation, bootstrap_over_draws
from shared.splits import Split
from simulations.bench.settings import Setting
from simulations.federate import federate, outcome_scorer
from simulations.methods import LABELS, baseline, cold_slice, federated
from simulations.variants import with_sections
from simulations.world import World, build_world

BASELINES = ("popularity", "item_knn", "ease", "sasrec", "zero_shot")
AGAINST = {
    "whole": ("statistics", "whole"),
    "share": ("statistics", "share"),
    "texts": ("texts", "share"),
}


@dataclass(frozen=True)
class AccuracyRow:
    """One line: means over seeds.

    Attributes:
        method: key of ``simulations.methods.LABELS``.
        part: ``whole`` where the method has the whole budget, ``share`` for the statistics of a
            federation, which leave some of it to the adapter.
        epsilon: None without noise.
        noise: ``own``, ``shared`` or ``none``.
        aggregation: ``secure`` or ``plain``.
        data, protocol: what was ranked.
        hr10, ndcg10: means over seeds.
        hr10_se, ndcg10_se: standard error over users, of one draw.
        hr10_spread, ndcg10_spread: standard deviation over seeds.
        cold_ndcg10: on targets outside the items that G covers.
        seeds: how many draws.
    """

    method: str
    part: str
    epsilon: float | None
    noise: str
    aggregation: str
    data: str
    protocol: str
    hr10: float
    ndcg10: float
    hr10_se: float
    ndcg10_se: float
    hr10_spread: float
    ndcg10_spread: float
    cold_ndcg10: float | None
    seeds: int

    @property
    def label(self) -> str:
        """What a person reads."""
        suffix = ", its share of the budget" if self.part == "share" else ""
        return LABELS[self.method] + suffix


@dataclass(frozen=True)
class Comparison:
    """Federation minus something else on one setting, over the means of draws of each user.

    Attributes:
        against: ``share``: the statistics in it, which have what the adapter left of the budget;
            ``whole``: statistics alone that had all of it; ``texts``: all of it but the adapter.
        noise, epsilon: of the setting.
        ndcg10_mean, ndcg10_low, ndcg10_high: difference and its 95% interval over users.
    """

    against: str
    noise: str
    epsilon: float | None
    ndcg10_mean: float
    ndcg10_low: float
    ndcg10_high: float


def measure(
    config: Config,
    settings: Sequence[Setting],
    seeds: int,
    baselines: Iterable[str] = BASELINES,
    part: str = "test",
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[AccuracyRow], list[Comparison]]:
    """Measure the baselines once and every setting over ``seeds`` draws.

    Args:
        config: data, model and training; its own noise and seed are not used.
        settings: noise settings.
        seeds: draws of noise, initial adapter and partition.
        baselines: of ``BASELINES``.
        part: ``test``, or ``validation`` for choosing settings.
        told: is told what runs next.
    """
    rows: list[AccuracyRow] = []
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory() as scratch:
        world = build_world(config, Path(scratch))
        split = world.test if part == "test" else world.validation
        for method in baselines:
            told(LABELS[method])
            found = [baseline(world, method, split)]
            rows.append(_row(world, config, method, "whole", Setting("none", None), found, []))
        for setting in settings:
            label = "no noise" if setting.epsilon is None else f"{setting.epsilon:g}"
            draws: dict[tuple[str, str], list[Evaluation]] = {}
            cold: dict[tuple[str, str], list[Evaluation]] = {}
            for seed in range(seeds):
                told(f"epsilon {label}, noise {setting.noise}, draw {seed + 1} of {seeds}")
                folder = Path(scratch) / f"{setting.noise}-{label}-{seed}"
                for key, evaluation, slice_ in draw(
                    setting, config, world.dataset, seed, folder, split
                ):
                    draws.setdefault(key, []).append(evaluation)
                    if slice_ is not None:
                        cold.setdefault(key, []).append(slice_)
            for (method, budget), found in draws.items():
                rows.append(
                    _row(
                        world,
                        config,
                        method,
                        budget,
                        setting,
                        found,
                        cold.get((method, budget), []),
                    )
                )
            whole = draws.get(("federation", "whole"))
            if whole is not None:
                for against, key in AGAINST.items():
                    comparisons.append(_compare(against, setting, whole, draws[key]))
    return rows, comparisons


def draw(
    setting: Setting, config: Config, dataset: Dataset, seed: int, folder: Path, split: Split
) -> Iterable[tuple[tuple[str, str], Evaluation, Evaluation | None]]:
    """One draw of a setting: every part of the federation, evaluated.

    Args:
        setting: of the noise.
        config: of the run; its own noise and seed are not used.
        dataset: the same for all draws.
        seed: of partition and frozen factors; the noise has none.
        folder: for the run.
        split: whose targets are ranked.

    Yields:
        ``(method, part of the budget)``, its evaluation, and that of the cold targets in it.
    """
    drawn = setting.configure(config, seed)
    # The data of all draws is the same; only who holds which users is drawn anew.
    parts = partition(
        dataset, drawn.partition.scheme, drawn.partition.organisations, drawn.run.seed
    )
    world = World(drawn, dataset, tuple(parts))
    alone = with_sections(drawn, training={"rounds": 0})
    outcome = federate(world, alone, folder / "statistics", f"statistics-{seed}")
    scores = outcome_scorer(world, alone, outcome)
    found = federated(world, "statistics", split, scores)
    yield ("statistics", "whole"), found, cold_slice(world, found, scores)
    if not drawn.training.rounds:
        return
    outcome = federate(world, drawn, folder / "federation", f"federation-{seed}")
    scores = outcome_scorer(world, drawn, outcome)
    for method, budget in (
        ("statistics", "share"),
        ("texts", "share"),
        ("adapter", "whole"),
        ("federation", "whole"),
    ):
        found = federated(world, method, split, scores)
        yield (method, budget), found, cold_slice(world, found, scores)


def _row(
    world: World,
    config: Config,
    method: str,
    budget: str,
    setting: Setting,
    found: Sequence[Evaluation],
    cold: Sequence[Evaluation],
) -> AccuracyRow:
    hr, ndcg = [e.hr for e in found], [e.ndcg for e in found]
    return AccuracyRow(
        method=method,
        part=budget,
        epsilon=setting.epsilon,
        noise=setting.noise,
        aggregation=setting.aggregation,
        data=world.dataset.name,
        protocol=config.evaluation.protocol,
        hr10=float(np.mean(hr)),
        ndcg10=float(np.mean(ndcg)),
        hr10_se=float(np.mean([e.standard_error("hr") for e in found])),
        ndcg10_se=float(np.mean([e.standard_error("ndcg") for e in found])),
        hr10_spread=float(np.std(hr)),
        ndcg10_spread=float(np.std(ndcg)),
        cold_ndcg10=float(np.mean([e.ndcg for e in cold])) if cold else None,
        seeds=len(found),
    )


def _compare(
    against: str, setting: Setting, whole: Sequence[Evaluation], part: Sequence[Evaluation]
) -> Comparison:
    found = bootstrap_over_draws(whole, part, "ndcg")
    return Comparison(against, setting.noise, setting.epsilon, found.mean, found.low, found.high)


def as_json(rows: Sequence[AccuracyRow], comparisons: Sequence[Comparison]) -> dict[str, object]:
    """The object that ``--json`` writes."""
    return {"rows": [asdict(r) for r in rows], "comparisons": [asdict(c) for c in comparisons]}

"""``tacit bench accuracy``: how well every method ranks, over several noise draws."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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

BASELINES = ("popularity", "item_knn", "ease", "sasrec", "zero_shot", "by_itself")
# What is compared with what: methods and their parts of the budget.
COMPARED = (
    ("federation", "statistics", "whole"),
    ("federation", "statistics", "share"),
    ("federation", "texts", "share"),
    ("federation", "by_itself", "whole"),
    ("personalised", "by_itself", "whole"),
)
# Where the configuration has none: what suits most.
OWN_COOCCURRENCE = 1.0


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
    """One method less another on one setting, over the means of draws of each user.

    Attributes:
        method: key of ``simulations.methods.LABELS``, with the whole budget.
        less: that of the other.
        part: of the other: ``share`` where it has what the adapter left of the budget.
        noise, epsilon: of the setting.
        ndcg10_mean, ndcg10_low, ndcg10_high: difference and its 95% interval over users.
    """

    method: str
    less: str
    part: str
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
    fitted: dict[tuple[str, str], list[Evaluation]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = build_world(config, Path(scratch))
        split = world.test if part == "test" else world.validation
        for method in baselines:
            told(LABELS[method])
            found = baseline_draws(world, method, split, seeds)
            fitted[method, "whole"] = found
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
            comparisons += _compared(setting, fitted | draws)
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
    world = _drawn_world(setting.configure(config, seed), dataset, seed)
    drawn = world.config
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
        ("personalised", "whole"),
    ):
        found = federated(world, method, split, scores)
        yield (method, budget), found, cold_slice(world, found, scores)


def baseline_draws(world: World, method: str, split: Split, seeds: int) -> list[Evaluation]:
    """A baseline's evaluations: one a draw where it matters who holds which users, else one."""
    worlds = [world]
    if method == "by_itself":
        worlds = [_drawn_world(world.config, world.dataset, seed) for seed in range(seeds)]
    return [baseline(one, method, split) for one in worlds]


def _drawn_world(config: Config, dataset: Dataset, seed: int) -> World:
    """The data of all draws is the same; only who holds which users is drawn anew.

    Own pairs have the weight that is configured, or ``OWN_COOCCURRENCE`` where none is.
    """
    parts = partition(dataset, config.partition.scheme, config.partition.organisations, seed)
    own = config.personalisation.own_cooccurrence or OWN_COOCCURRENCE
    drawn = with_sections(config, personalisation={"own_cooccurrence": own}, run={"seed": seed})
    return World(drawn, dataset, tuple(parts))


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


def _compared(
    setting: Setting, draws: Mapping[tuple[str, str], Sequence[Evaluation]]
) -> list[Comparison]:
    made = []
    for method, less, budget in COMPARED:
        if (method, "whole") in draws and (less, budget) in draws:
            found = bootstrap_over_draws(draws[method, "whole"], draws[less, budget], "ndcg")
            of = (method, less, budget, setting.noise, setting.epsilon)
            made.append(Comparison(*of, found.mean, found.low, found.high))
    return made


def as_json(rows: Sequence[AccuracyRow], comparisons: Sequence[Comparison]) -> dict[str, object]:
    """The object that ``--json`` writes."""
    return {"rows": [asdict(r) for r in rows], "comparisons": [asdict(c) for c in comparisons]}

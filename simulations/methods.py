"""Every method that a table compares, evaluated on one split with the same ranking."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shared.metrics import Evaluation, evaluate
from shared.ranking import FindTargets, evaluate_targets
from shared.scoring import Ints, Scorer, Scores, zero_shot_scores
from shared.splits import Split
from simulations.baselines.ease import ease
from simulations.baselines.item_knn import item_knn
from simulations.baselines.popularity import popularity
from simulations.baselines.sasrec import sasrec
from simulations.own import by_itself, personalised
from simulations.world import World

LABELS = {
    "zero_shot": "Text alone, no training",
    "by_itself": "Each organisation by itself",
    "popularity": "Popularity",
    "item_knn": "Item-kNN",
    "ease": "EASE, decayed history",
    "sasrec": "SASRec",
    "statistics": "Statistics alone",
    "texts": "Statistics and texts",
    "adapter": "Adapter alone",
    "federation": "Federation",
    "personalised": "Federation and own pairs",
}


@dataclass(frozen=True)
class Result:
    """One line of a table of methods.

    Attributes:
        method: key of ``LABELS``.
        epsilon: None without noise.
        noise: ``own``, ``shared`` or ``none``.
        evaluation: on the test split.
        cold: on the users whose target the statistics' G does not cover; None where there are none.
        aggregation: ``secure``, or ``plain`` where the server sees what each organisation sends.
    """

    method: str
    epsilon: float | None
    noise: str
    evaluation: Evaluation
    cold: Evaluation | None = None
    aggregation: str = "plain"

    @property
    def label(self) -> str:
        """What a person reads."""
        return LABELS[self.method]


def baseline(world: World, method: str, part: Split, seed: int = 0) -> Evaluation:
    """Evaluate a method that knows no privacy: fitted on all training histories pooled.

    ``by_itself`` is not pooled: each organisation has its own.
    """
    if method == "by_itself":
        return by_itself(world, part)
    items, train = world.items, part.train
    fits: dict[str, Callable[[], Callable[[Ints], Scores]]] = {
        "zero_shot": lambda: (
            lambda users: zero_shot_scores(
                world.vectors, part.history, users, world.config.fusion.content_decay
            )
        ),
        "popularity": lambda: popularity(train, items),
        "item_knn": lambda: item_knn(train, part.history, items),
        "ease": lambda: ease(train, part.history, items),
        "sasrec": lambda: sasrec(train, part.history, world.validation, items, seed=seed),
    }
    return evaluate(fits[method](), part, items, world.config.evaluation.cutoff)


def federated(world: World, method: str, part: Split, scores: Scorer) -> Evaluation:
    """Evaluate a part of what a federation delivered: statistics, adapter or the whole.

    ``texts`` adds the likeness of item texts to the statistics, which costs no privacy;
    ``personalised`` each organisation's own pairs to the whole, outside the guarantee.
    """
    if method == "personalised":
        return personalised(world, part, scores)
    without = replace(scores.blend(), adapter=0.0)
    alone = replace(without, content=0.0)
    ways: dict[str, FindTargets] = {
        "statistics": lambda users: scores.targets(part.history, users, blend=alone),
        "texts": lambda users: scores.targets(part.history, users, blend=without),
        "adapter": lambda users: scores.adapter_alone(part.history, users),
        "federation": lambda users: scores.targets(part.history, users),
    }
    return evaluate_targets(ways[method], scores.item_side, part, world.config.evaluation.cutoff)


def cold_slice(world: World, evaluation: Evaluation, scores: Scorer) -> Evaluation | None:
    """The evaluation on targets outside the items that G covers; None where there are none."""
    mask = np.ones(world.items, dtype=np.bool_)
    mask[scores.statistics.top] = False
    cold = evaluation.slice(mask)
    return cold if len(cold) else None

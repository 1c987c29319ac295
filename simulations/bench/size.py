"""``tacit bench size``: what each part of a federation is worth as users become more.

Generated users with planted tastes, so that any number can be had, or some of those of a data set.
The noise of a release does not grow with the users and what they have in common does: this shows
how fast each part gains by it.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.config import Config
from shared.metrics import Evaluation, over_draws
from simulations.bench.accuracy import baseline_draws, draw
from simulations.bench.settings import Setting
from simulations.methods import LABELS
from simulations.variants import with_sections
from simulations.world import build_world, fewer

METHODS = (
    ("popularity", "whole"),
    ("by_itself", "whole"),
    ("statistics", "whole"),
    ("texts", "share"),
    ("adapter", "whole"),
    ("federation", "whole"),
    ("personalised", "whole"),
)


@dataclass(frozen=True)
class SizeRow:
    """One method at one number of users.

    Attributes:
        users, items: of the data.
        method: as a person reads it.
        noise, epsilon: of the setting.
        ndcg10: mean over draws.
        ndcg10_se: standard error over users.
        seeds: draws.
    """

    users: int
    items: int
    method: str
    noise: str
    epsilon: float | None
    ndcg10: float
    ndcg10_se: float
    seeds: int


def measure(
    config: Config,
    users: Sequence[int],
    setting: Setting,
    seeds: int,
    told: Callable[[str], None] = lambda _: None,
) -> list[SizeRow]:
    """Rank with every part at each number of users.

    Args:
        config: data, model and training; its own noise is not used. Of generated data each size is
            made anew, of other data so many users are drawn with ``run.seed``.
        users: numbers of users.
        setting: of the noise.
        seeds: draws of the noise; the data of a size is the same in all.
        told: is told what runs next.
    """
    rows: list[SizeRow] = []
    for count in users:
        sized = with_sections(config, data={"synthetic_users": count})
        with tempfile.TemporaryDirectory() as scratch:
            world = fewer(build_world(sized, Path(scratch)), count, config.run.seed)
            found: dict[tuple[str, str], list[Evaluation]] = {
                (method, "whole"): baseline_draws(world, method, world.test, seeds)
                for method in ("popularity", "by_itself")
            }
            for seed in range(seeds):
                told(f"{count:,} users, draw {seed + 1} of {seeds}")
                folder = Path(scratch) / str(seed)
                for key, evaluation, _ in draw(
                    setting, sized, world.dataset, seed, folder, world.test
                ):
                    found.setdefault(key, []).append(evaluation)
        for key in METHODS:
            if key in found:
                values = over_draws(found[key], "ndcg")
                rows.append(
                    SizeRow(
                        len(world.dataset.histories),
                        world.items,
                        LABELS[key[0]],
                        setting.noise,
                        setting.epsilon,
                        float(values.mean()),
                        float(values.std(ddof=1) / np.sqrt(len(values))),
                        len(found[key]),
                    )
                )
    return rows

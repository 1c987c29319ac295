"""``tacit bench reach``: items, houses and needs that the statistics know nothing about.

Popularity and co-occurrence are about items that the federation has seen. Two things that it has
not seen: an item that is added after training, and a house that joins with users and a catalogue of
its own. Both are made from one data set, so that the federation never meets a part of its items and
a part of its users. The third is what a user says now (``simulations.bench.asked``).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.ingest import Dataset
from client.data.partition import partition
from client.directory import item_vectors
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import statistics_from_arrays
from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, bootstrap_over_draws, evaluate, over_draws
from shared.models import load_model
from shared.scoring import Blend, Scorer, Scores, zero_shot_scores
from shared.splits import NO_TARGET, Split
from simulations import methods
from simulations.bench.asked import rank_asked
from simulations.bench.settings import Setting
from simulations.federate import Outcome, federate, outcome_scorer
from simulations.world import World, build_world

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEW_ITEMS = 0.3
JOINING_USERS = 0.3
# What is seen of a user before the target.
LEAST_HISTORY = 3
# Below every score, and finite: items that are not ranked.
NOT_RANKED = np.float32(-1e9)

RANKED = ("statistics", "zero_shot", "adapter", "texts", "federation")
LABELS = {method: methods.LABELS[method] for method in RANKED} | {
    "untrained": "User model before training",
    "need": "The need alone",
    "unasked": "Federation, nothing said",
}
SLICES = {
    "added": "an item added after training",
    "joined": "a house that joins",
    "asked": "a need in words",
}


@dataclass(frozen=True)
class ReachRow:
    """One method on one slice, means over draws.

    Attributes:
        slice: key of ``SLICES``.
        method: key of ``LABELS``.
        noise, epsilon: of the federation.
        data: which.
        users: ranked.
        items: among how many.
        hr10, ndcg10: means over draws.
        ndcg10_se: standard error over users, of the means over draws.
        seeds: draws.
    """

    slice: str
    method: str
    noise: str
    epsilon: float | None
    data: str
    users: int
    items: int
    hr10: float
    ndcg10: float
    ndcg10_se: float
    seeds: int


@dataclass(frozen=True)
class ReachComparison:
    """NDCG of one method less that of another, users resampled; attributes as of ``ReachRow``."""

    slice: str
    method: str
    less: str
    noise: str
    epsilon: float | None
    mean: float
    low: float
    high: float


COMPARED = (
    ("federation", "statistics"),
    ("federation", "texts"),
    ("adapter", "untrained"),
    ("adapter", "statistics"),
    ("federation", "unasked"),
    ("federation", "need"),
)


@dataclass(frozen=True)
class Held:
    """A data set of which the federation sees a part.

    Attributes:
        whole: all of it.
        seen: items known, users of the federation.
        new: ``[items]`` items that the federation never meets.
        added: split of the federation's users, whose targets are new items.
        joined: split of the joining users over ``own``.
        own: catalogue of the joining house: the new items.
    """

    whole: Dataset
    seen: Dataset
    new: Mask
    added: Split
    joined: Split
    own: Catalogue


def hold_back(dataset: Dataset, seed: int = 0) -> Held:
    """Divide a data set: ``NEW_ITEMS`` of the items and ``JOINING_USERS`` of the users.

    The target of a user of the federation is the last new item of the history, read after all that
    came before it; that of a joining user is the last item, in a history of new items alone.

    Raises:
        DataError: if nobody is left to rank.
    """
    generator = np.random.default_rng(seed)
    histories = dataset.histories
    # Items of one key are one item to the federation: they are all new, or none is.
    keys, item = np.unique(dataset.catalogue.key_hashes, return_inverse=True)
    new = (generator.random(len(keys)) < NEW_ITEMS)[item]
    joins = generator.random(len(histories)) < JOINING_USERS
    staying, joining = np.flatnonzero(~joins), np.flatnonzero(joins)

    own_place = np.cumsum(new) - 1
    seen_place = np.cumsum(~new) - 1
    known = _with_items(histories.select(staying), ~new, seen_place)
    seen = replace(
        dataset,
        catalogue=_selected(dataset.catalogue, np.flatnonzero(~new)),
        histories=known.select(np.flatnonzero(known.lengths >= LEAST_HISTORY)),
        user_columns={},
    )
    stay = histories.select(staying)
    last = np.array([_last_new(stay.row(user), new) for user in range(len(stay))], dtype=np.int64)
    added = _split_at(stay, last)
    own = _with_items(histories.select(joining), new, own_place)
    joined = _split_at(own, np.where(own.lengths > LEAST_HISTORY, own.lengths - 1, NO_TARGET))
    for name, part in (("added items", added), ("a joining house", joined)):
        if not (part.target >= 0).any():
            raise DataError(f"{dataset.name}: no user is left to rank for {name}; give more data")
    catalogue = _selected(dataset.catalogue, np.flatnonzero(new))
    return Held(dataset, seen, new, added, joined, catalogue)


def measure(
    config: Config,
    settings: Sequence[Setting],
    seeds: int,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[ReachRow], list[ReachComparison]]:
    """Rank added items, a joining house's items and what users ask for by every method.

    Args:
        config: data, model and training; its own noise and seed are not used.
        settings: noise settings.
        seeds: draws of noise, frozen factors and partition; what is held back stays the same.
        told: is told what runs next.
    """
    rows: list[ReachRow] = []
    comparisons: list[ReachComparison] = []
    with tempfile.TemporaryDirectory() as scratch:
        held = hold_back(build_world(config, Path(scratch)).dataset)
        for setting in settings:
            found: dict[tuple[str, str], list[Evaluation]] = {}
            for seed in range(seeds):
                told(f"{setting.noise} noise, epsilon {setting.epsilon}, draw {seed + 1}")
                drawn = setting.configure(config, seed)
                parts = partition(
                    held.seen, drawn.partition.scheme, drawn.partition.organisations, seed
                )
                world = World(drawn, held.seen, tuple(parts))
                folder = Path(scratch) / f"{setting.noise}-{setting.epsilon}-{seed}"
                outcome = federate(world, drawn, folder, f"reach-{seed}")
                ranked = rank(held, drawn, outcome)
                asked = rank_asked(world, outcome_scorer(world, drawn, outcome))
                ranked |= {("asked", method): one for method, one in asked.items()}
                for key, evaluation in ranked.items():
                    found.setdefault(key, []).append(evaluation)
            for (slice_, method), draws in found.items():
                rows.append(_row(held, setting, slice_, method, draws))
            for slice_ in SLICES:
                for method, less in COMPARED:
                    if not {(slice_, method), (slice_, less)} <= found.keys():
                        continue
                    d = bootstrap_over_draws(found[slice_, method], found[slice_, less])
                    comparisons.append(
                        ReachComparison(
                            slice_,
                            method,
                            less,
                            setting.noise,
                            setting.epsilon,
                            d.mean,
                            d.low,
                            d.high,
                        )
                    )
    return rows, comparisons


def rank(held: Held, config: Config, outcome: Outcome) -> dict[tuple[str, str], Evaluation]:
    """Evaluations by slice and method of what one federation delivered."""
    found = {}
    places = np.flatnonzero(held.new)
    for slice_, catalogue, part, ranked in (
        ("added", held.whole.catalogue, held.added, places),
        ("joined", held.own, held.joined, np.arange(len(held.own))),
    ):
        for method, score in scores_by_method(config, outcome, catalogue, part).items():
            among = _among(score, ranked)
            found[slice_, method] = evaluate(among, part, len(catalogue), config.evaluation.cutoff)
    return found


def _among(score: Callable[[Ints], Scores], ranked: Ints) -> Callable[[Ints], Scores]:
    """The same scores, with all items but some put last."""

    def found(users: Ints) -> Scores:
        scores = score(users)
        result = np.full_like(scores, NOT_RANKED)
        result[:, ranked] = scores[:, ranked]
        return result

    return found


def scores_by_method(
    config: Config, outcome: Outcome, catalogue: Catalogue, part: Split
) -> dict[str, Callable[[Ints], Scores]]:
    """What each method scores the items of a catalogue, which the federation may not know."""
    loaded = load_model(config)
    vectors = item_vectors(catalogue, loaded)
    scorer = Scorer(
        config,
        statistics_from_arrays(outcome.by_key, catalogue),
        vectors,
        outcome.adapter,
        loaded.model,
        loaded.runtime,
        outcome.reliability,
    )
    usual = scorer.blend()
    alone = Blend(adapter=1.0)
    untrained = replace(scorer, adapter=loaded.initial, reliability=1.0)

    def by(one: Scorer, blend: Blend) -> Callable[[Ints], Scores]:
        return lambda users: one.fused(part.history, users, blend=blend)

    found = {
        "statistics": by(scorer, Blend(cooccurrence=usual.cooccurrence)),
        "zero_shot": lambda users: zero_shot_scores(
            vectors, part.history, users, config.fusion.content_decay
        ),
        "texts": by(scorer, replace(usual, adapter=0.0)),
        "untrained": by(untrained, alone),
    }
    if outcome.adapter is not None:
        found |= {"adapter": by(scorer, alone), "federation": by(scorer, usual)}
    return found


def _row(
    held: Held, setting: Setting, slice_: str, method: str, draws: Sequence[Evaluation]
) -> ReachRow:
    values = over_draws(draws, "ndcg")
    return ReachRow(
        slice_,
        method,
        setting.noise,
        setting.epsilon,
        held.whole.name,
        len(values),
        len(held.seen.catalogue) if slice_ == "asked" else int(held.new.sum()),
        float(np.mean([e.hr for e in draws])),
        float(values.mean()),
        float(values.std(ddof=1) / np.sqrt(len(values))),
        len(draws),
    )


def _last_new(history: Ints, new: Mask) -> int:
    places = np.flatnonzero(new[history])
    return int(places[-1]) if len(places) and places[-1] >= LEAST_HISTORY else NO_TARGET


def _split_at(histories: PrivateHistories, place: Ints) -> Split:
    """The item at ``place`` of each history as its target, all before it as what is read."""
    target = np.full(len(histories), NO_TARGET, dtype=np.int64)
    present = place >= 0
    target[present] = histories.items[(histories.offsets[:-1] + place)[present]]
    before = histories.truncated(np.where(present, place, histories.lengths))
    return Split(train=before, history=before, target=target)


def _with_items(histories: PrivateHistories, kept: Mask, place: Ints) -> PrivateHistories:
    """Histories of the ``kept`` items alone, renumbered by ``place``."""
    inside = kept[histories.items]
    owner = np.repeat(np.arange(len(histories)), histories.lengths)[inside]
    lengths = np.bincount(owner, minlength=len(histories))
    return PrivateHistories(
        histories.user_ids,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        place[histories.items[inside]].astype(np.int64),
        histories.times[inside],
        None if histories.ratings is None else histories.ratings[inside],
    )


def _selected(catalogue: Catalogue, places: Ints) -> Catalogue:
    def of(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(values[place] for place in places)

    return Catalogue(
        of(catalogue.item_ids),
        of(catalogue.titles),
        {name: of(values) for name, values in catalogue.attributes.items()},
        None if catalogue.keys is None else of(catalogue.keys),
    )

"""``tacit bench lists``: what each way of making a list costs or gains in ranking quality."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.recommend.generative import able_to_generate
from client.recommend.query import Delivery, Query
from client.recommend.recommender import Recommender
from shared.config import Config
from shared.encoder import TextEncoder, encode_texts
from shared.metrics import Evaluation, paired_bootstrap
from shared.scoring import Ints, Scorer, Scores
from shared.splits import NO_TARGET, Split
from shared.text_space import TextSpace
from simulations.federate import federate, outcome_scorer
from simulations.world import World, build_world

USUAL = Query()
WAYS: Mapping[str, Query] = {
    "hybrid": USUAL,
    "behaviour": Query(mode="behaviour"),
    "content": Query(mode="content"),
    **{f"diversity {d:g}": Query(diversity=d) for d in (0.1, 0.3, 0.5)},
    **{f"damping {d:g}": Query(popularity_damping=d) for d in (0.25, 0.5, 1.0)},
}
SEED = 0


@dataclass(frozen=True)
class ListRow:
    """One way of making lists, over the users of a split.

    Attributes:
        way: what differs from the usual list.
        users: how many were ranked for.
        hr10, ndcg10: means over users.
        ndcg10_error: standard error over users.
        difference, low, high: NDCG@10 less that of the usual list of the same users, with the 95%
            interval over users.
        coverage: share of the catalogue that is in somebody's list.
        alike: mean cosine of two items of a list.
        novelty: mean self-information of the items of the lists, in bits.
    """

    way: str
    users: int
    hr10: float
    ndcg10: float
    ndcg10_error: float
    difference: float
    low: float
    high: float
    coverage: float
    alike: float
    novelty: float


def measure(
    config: Config,
    sample: int,
    part: str = "test",
    told: Callable[[str], None] = lambda _: None,
) -> list[ListRow]:
    """Run one federation and make every user's list in every way.

    Args:
        config: of the federation.
        sample: users for whom the language model generates titles; 0: none.
        part: ``test``, or ``validation`` for choosing settings.
        told: is told what runs next.
    """
    with tempfile.TemporaryDirectory() as scratch:
        world = build_world(config, Path(scratch))
        told("Federation")
        outcome = federate(world, config, Path(scratch) / "run", "lists")
        split = world.test if part == "test" else world.validation
        recommender = recommender_of(world, outcome_scorer(world, config, outcome), split)
        users = np.flatnonzero(split.target != NO_TARGET)
        found = {}
        for way, query in WAYS.items():
            told(way)
            found[way] = evaluated(recommender.ranked(users, query), split, users, world.items)
        rows = [_row(way, one, found["hybrid"], world) for way, one in found.items()]
        if sample:
            chosen = np.sort(
                np.random.default_rng(SEED).choice(users, min(sample, len(users)), replace=False)
            )
            generated = able_to_generate(recommender)
            lists = _generated(generated, chosen, told)
            one = evaluated(lists, split, chosen, world.items)
            usual = evaluated(recommender.ranked(chosen, USUAL), split, chosen, world.items)
            rows.append(_row("generative", one, usual, world))
        return rows


def recommender_of(world: World, scorer: Scorer, split: Split) -> Recommender:
    """The recommender of all users of a split, who have what they had before the target."""
    loaded = world.loaded
    raw = encode_texts(world.dataset.catalogue.texts, loaded.encoder, loaded.runtime)
    return Recommender(
        world.dataset.name,
        world.dataset.catalogue,
        split.history,
        scorer.with_merged_adapter(),
        TextEncoder(loaded.encoder, loaded.runtime),
        TextSpace.of(raw),
        Delivery("lists", 0, scorer.adapter is not None, ""),
    )


def evaluated(
    lists: Iterator[tuple[Ints, Scores]], split: Split, users: Ints, items: int
) -> Evaluation:
    """Lists of some users as an evaluation; a target outside its list has the last rank."""
    cutoff = USUAL.k
    top = np.full((len(users), cutoff), -1, dtype=np.int64)
    for line, (places, _) in enumerate(lists):
        top[line, : len(places)] = places
    targets = split.target[users]
    hit = top == targets[:, None]
    ranks = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, float(items))
    return Evaluation(ranks, users, targets, top, items, cutoff)


def _generated(
    recommender: Recommender, users: Ints, told: Callable[[str], None]
) -> Iterator[tuple[Ints, Scores]]:
    for done, user in enumerate(users):
        told(f"generative, user {done + 1} of {len(users)}")
        identifier = recommender.histories.user_ids[user]
        lines = recommender.recommend(identifier, replace(USUAL, mode="generative"))
        yield (
            np.array([recommender.item_place(line.item_id) for line in lines], dtype=np.int64),
            np.array([line.score for line in lines], dtype=np.float32),
        )


def _row(way: str, found: Evaluation, usual: Evaluation, world: World) -> ListRow:
    difference = paired_bootstrap(found, usual, "ndcg")
    popularity = np.bincount(world.test.train.items, minlength=world.items)
    cosines = [
        float(np.mean((rows @ rows.T)[np.triu_indices(len(rows), 1)]))
        for line in found.top
        if len(rows := world.vectors[line[line >= 0]]) > 1
    ]
    return ListRow(
        way=way,
        users=len(found),
        hr10=found.hr,
        ndcg10=found.ndcg,
        ndcg10_error=found.standard_error("ndcg"),
        difference=difference.mean,
        low=difference.low,
        high=difference.high,
        coverage=found.coverage,
        alike=float(np.mean(cosines)),
        novelty=found.novelty(popularity),
    )

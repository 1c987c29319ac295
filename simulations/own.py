"""What an organisation has of its own histories: by itself, and beside what a federation delivers.

Both are without noise and stay in the organisation. By itself is what a federation has to be worth
more than; beside it is ``client.recommend.own_pairs``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from client.recommend.own_pairs import exact_transition, own_sums, with_own_pairs
from shared.metrics import Evaluation
from shared.ranking import evaluate_targets
from shared.scoring import Scorer
from shared.splits import NO_TARGET, Split
from shared.statistics import Statistics, log_popularity
from simulations.world import World


def by_itself(world: World, part: Split) -> Evaluation:
    """Every user ranked by the organisation's own P, G and texts, of all its histories."""
    config, options = world.config, world.config.statistics

    def scorer(own: Split) -> Scorer:
        popularity, top, triangle = own_sums(own.train, world.items, 1, options)
        transition = exact_transition(triangle, popularity[top], options)
        statistics = Statistics(log_popularity(popularity, 0.0), top, transition)
        return Scorer(config, statistics, world.vectors)

    return _by_organisation(world, part, scorer)


def personalised(world: World, part: Split, scores: Scorer) -> Evaluation:
    """Every user ranked by what was delivered and the organisation's own pairs.

    Args:
        world: who holds which users.
        part: whose targets are ranked.
        scores: with what was delivered; ``personalisation`` of its configuration counts.
    """
    return _by_organisation(world, part, lambda own: with_own_pairs(scores, own.train))


def _by_organisation(world: World, part: Split, scorer_of: Callable[[Split], Scorer]) -> Evaluation:
    found = []
    for organisation in world.organisations:
        users = organisation.users[part.target[organisation.users] != NO_TARGET]
        if not len(users):
            continue
        own = Split(
            part.train.select(organisation.users),
            part.history.select(users),
            part.target[users],
        )
        scorer, cutoff = scorer_of(own), world.config.evaluation.cutoff
        find = partial(scorer.targets, own.history)
        evaluation = evaluate_targets(find, scorer.item_side, own, cutoff)
        found.append(replace(evaluation, users=users[evaluation.users]))
    users = np.concatenate([one.users for one in found])
    order = np.argsort(users)
    return replace(
        found[0],
        ranks=np.concatenate([one.ranks for one in found])[order],
        users=users[order],
        targets=np.concatenate([one.targets for one in found])[order],
        top=np.concatenate([one.top for one in found])[order],
    )

"""From what a recommender says to what an answer holds."""

from collections.abc import Sequence

import numpy as np

from client.recommend.query import Delivery, Explanation, Query
from client.recommend.recommender import Recommender, Subject
from client.serving.schemas import (
    MOST_EXPLAINED,
    Because,
    DeliveryState,
    Explained,
    Had,
    InterestsOfUser,
    Line,
    Matched,
    Recommended,
    ThemeLine,
    User,
    UserLine,
    Users,
    Wish,
)
from client.serving.words import reason
from shared.errors import ConfigError


def users(recommender: Recommender, search: str, limit: int) -> Users:
    """Users whose identifier contains a text: equal ones first, then those that begin with it."""
    histories = recommender.histories
    wanted = search.strip().casefold()
    folded = [user.casefold() for user in histories.user_ids] if wanted else []
    found = [place for place, name in enumerate(folded) if wanted in name]
    found.sort(key=lambda place: (folded[place] != wanted, not folded[place].startswith(wanted)))
    places = found[:limit] if wanted else range(min(limit, len(histories)))
    return Users(
        users=[
            UserLine(id=histories.user_ids[place], interactions=_length(recommender, place))
            for place in places
        ],
        total=len(found) if wanted else len(histories),
    )


def user(recommender: Recommender, identifier: str, limit: int) -> User:
    """A user's history, newest first.

    Raises:
        DataError: if there is no such user.
    """
    place = recommender.user_place(identifier)
    histories, catalogue = recommender.histories, recommender.catalogue
    start, end = int(histories.offsets[place]), int(histories.offsets[place + 1])
    newest = range(end - 1, max(start, end - limit) - 1, -1)
    ratings = histories.ratings
    return User(
        id=identifier,
        interactions=end - start,
        history=[
            Had(
                item_id=catalogue.item_ids[item],
                title=catalogue.titles[item],
                text=catalogue.texts[item],
                time=float(histories.times[at]),
                rating=None if ratings is None or np.isnan(ratings[at]) else float(ratings[at]),
            )
            for at in newest
            for item in [int(histories.items[at])]
        ],
    )


def recommended(recommender: Recommender, subject: Subject, wish: Wish) -> Recommended:
    """A list, with reasons where they are asked for.

    Raises:
        DataError: if there is no such user or item.
        ConfigError: if the wish makes no sense.
    """
    if wish.reasons and wish.k > MOST_EXPLAINED:
        raise ConfigError(
            f"k is {wish.k}: reasons are given for at most {MOST_EXPLAINED} items at a time"
        )
    query = wish.query()
    found = recommender.recommend(subject, query)
    identifiers = [line.item_id for line in found]
    explanations: list[Explained | None] = [None] * len(found)
    if wish.reasons:
        explanations[:] = explained(recommender, subject, identifiers, query)
    ratings: list[float | None] = [None] * len(found)
    predicted = recommender.predict_ratings(subject, identifiers)
    if predicted is not None:
        ratings[:] = predicted
    return Recommended(
        user=subject if isinstance(subject, str) else None,
        delivery=delivery_state(recommender.delivery),
        recommendations=[
            Line(
                item_id=line.item_id,
                title=line.title,
                text=line.text,
                score=line.score,
                parts=dict(line.parts),
                predicted_rating=rating,
                explanation=explanation,
            )
            for line, rating, explanation in zip(found, ratings, explanations, strict=True)
        ],
    )


def explained(
    recommender: Recommender, subject: Subject, item_ids: Sequence[str], query: Query
) -> list[Explained]:
    """What carried some items' scores.

    Raises:
        DataError: if there is no such user or item.
        ConfigError: if the query makes no sense.
    """
    return [
        _explained(recommender, explanation, query.need)
        for explanation in recommender.explain(subject, item_ids, query)
    ]


def interests(recommender: Recommender, identifier: str) -> InterestsOfUser:
    """A user's themes over time.

    Raises:
        DataError: if there is no such user.
    """
    found = recommender.interests(identifier)
    return InterestsOfUser(
        user=identifier,
        periods=list(found.periods),
        themes=[
            ThemeLine(
                name=theme.name,
                column=theme.column,
                weight=theme.weight,
                lift=theme.lift,
                shares=list(theme.shares),
            )
            for theme in found.themes
        ],
    )


def delivery_state(delivery: Delivery) -> DeliveryState:
    """What was delivered, as answers carry it."""
    return DeliveryState(
        run=delivery.run,
        round=delivery.round,
        adapter=delivery.adapter,
        stamp=delivery.stamp,
        own_cooccurrence=delivery.own_cooccurrence,
    )


def _explained(recommender: Recommender, found: Explanation, need: str | None) -> Explained:
    return Explained(
        item_id=found.item_id,
        title=found.title,
        score=found.score,
        parts=dict(found.parts),
        history=[Because(item_id=h.item_id, title=h.title, drop=h.drop) for h in found.history],
        together=found.together,
        words=[Matched(word=w.word, drop=w.drop) for w in found.words],
        sentence=reason(recommender, found, need),
    )


def _length(recommender: Recommender, place: int) -> int:
    offsets = recommender.histories.offsets
    return int(offsets[place + 1] - offsets[place])

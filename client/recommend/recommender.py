"""Recommendations at one organisation: from its own catalogue, for its own users."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.recommend.attributes import Attributes
from client.recommend.filters import allowed_items
from client.recommend.interests import interests_of
from client.recommend.query import (
    Delivery,
    Explanation,
    Interests,
    Query,
    Recommendation,
    WordReason,
)
from client.recommend.reasons import TargetsOf, history_reasons, word_reasons
from client.recommend.rerank import diversified, pool_size
from client.recommend.search import ItemIndex
from shared.catalogue import Catalogue
from shared.encoder import TextEncoder, Vectors
from shared.errors import ConfigError, DataError
from shared.histories import PrivateHistories
from shared.ratings import mean_ratings, predicted_ratings
from shared.scoring import Blend, Ints, Scorer, Scores, Targets
from shared.statistics import Statistics
from shared.text_space import TextSpace
from shared.user_model import rating_scale

# Of users whose states are kept: some 150 MB at 384 dimensions.
MOST_STATES = 100_000
# A user's identifier, or a history as identifiers of items in order of time.
Subject = str | Sequence[str]
# Ranks by asking a language model: (history, need, k, excluded) to places and log probabilities.
Generate = Callable[[Ints, str | None, int, Ints], list[tuple[int, float]]]


@dataclass(frozen=True)
class Recommender:
    """Scores and data of one organisation; made once per delivery, used by several threads.

    Attributes:
        name: of the organisation.
        catalogue: its items.
        histories: its users' whole histories. Private.
        scorer: with what the federation delivered.
        encoder: for texts that nobody may keep.
        text_space: of the catalogue, in which the vectors of a need are placed.
        delivery: what the federation delivered.
        generate: ranks by titles that a language model writes; None where there is none.
        delivered: the federation's own statistics, where ``scorer`` has the organisation's pairs in
            its G; None where it has not.
    """

    name: str
    catalogue: Catalogue
    histories: PrivateHistories
    scorer: Scorer
    encoder: TextEncoder
    text_space: TextSpace
    delivery: Delivery
    generate: Generate | None = None
    delivered: Statistics | None = None

    def recommend(self, subject: Subject, query: Query) -> list[Recommendation]:
        """The best items for a user or a history.

        Args:
            subject: the organisation's identifier of a user, or a history as identifiers of items
                in order of time, which may be empty.
            query: how to rank.

        Raises:
            DataError: if there is no such user or item.
            ConfigError: if the query makes no sense.
        """
        query = checked(query)
        histories = self._history(subject)
        row = histories.row(0)
        seen = np.unique(row) if query.exclude_seen else np.empty(0, dtype=np.int64)
        allowed = allowed_items(query.filters, self.catalogue, self.attributes)
        if query.mode == "generative":
            return self._generated(row, query, seen, allowed)
        targets = self._targets(query, self._state(subject, histories))(histories, np.array([0]))
        count = pool_size(query.k, query.diversity)
        places, scores = self.index.best(targets, 0, count, seen, allowed)
        vectors = self.scorer.vectors
        chosen = diversified(places, scores, vectors, query.k, query.diversity)
        return self._lines(places[chosen], targets)

    def ranked(self, users: Ints, query: Query) -> Iterator[tuple[Ints, Scores]]:
        """The lists of many users, by one pass of the model: places and scores, best first.

        Raises:
            ConfigError: if the query makes no sense, or asks a language model.
        """
        query = checked(query)
        if query.mode == "generative":
            raise ConfigError("mode generative takes seconds for a user; it has no lists for all")
        allowed = allowed_items(query.filters, self.catalogue, self.attributes)
        targets = self._targets(query)(self.histories, users)
        seen = [
            self.histories.row(int(user)) if query.exclude_seen else np.empty(0, dtype=np.int64)
            for user in users
        ]
        count, vectors = pool_size(query.k, query.diversity), self.scorer.vectors
        for places, scores in self.index.best_many(targets, count, seen, allowed):
            chosen = diversified(places, scores, vectors, query.k, query.diversity)
            yield places[chosen], scores[chosen]

    def explain(self, subject: Subject, item_ids: Sequence[str], query: Query) -> list[Explanation]:
        """What carried some items' scores.

        Raises:
            DataError: if there is no such user or item.
            ConfigError: if the query makes no sense.
        """
        query = checked(query)
        if query.mode == "generative":
            raise ConfigError("mode generative has no reasons: its scores are a language model's")
        places = np.array([self.item_place(item) for item in item_ids], dtype=np.int64)
        histories = self._history(subject)
        targets_of = self._targets(query)
        targets = targets_of(histories, np.array([0]))
        history = history_reasons(self.scorer, targets_of, histories.row(0), places, self.catalogue)
        lines = self._lines(places, targets)
        words: list[tuple[WordReason, ...]] = [()] * len(places)
        # Where the text is further from what is wanted than most, nothing of it matched.
        near = [at for at, line in enumerate(lines) if line.parts.get("need", 0.0) > 0.0]
        if near:
            texts = [self.catalogue.texts[places[at]] for at in near]
            found = word_reasons(texts, self.text_vectors, targets.directions["need"][0])
            for at, matched in zip(near, found, strict=True):
                words[at] = matched
        return [
            Explanation(line.item_id, line.title, line.score, line.parts, named, together, matched)
            for line, (named, together), matched in zip(lines, history, words, strict=True)
        ]

    def interests(self, subject: Subject) -> Interests:
        """What a history says in words.

        Raises:
            DataError: if there is no such user or item.
        """
        histories = self._history(subject)
        return interests_of(histories.row(0), histories.times, self.attributes, len(self.catalogue))

    def predict_ratings(self, subject: Subject, item_ids: Sequence[str]) -> list[float] | None:
        """Ratings that a user would give to items; None where none are learnt.

        A history that is given as items has no ratings, so the middle of the scale stands for its
        mean.

        Raises:
            DataError: if there is no such user or item.
        """
        scorer = self.scorer
        if scorer.adapter is None or not scorer.config.model.rating_weight:
            return None
        scale = rating_scale(scorer.config.model)
        places = np.array([self.item_place(item) for item in item_ids], dtype=np.int64)
        means = mean_ratings(self._history(subject), scale)
        statistics = scorer.statistics
        found = predicted_ratings(
            scorer.adapter, scale, means, scorer.vectors, statistics.log_popularity, places
        )
        return [float(rating) for rating in found[0]]

    def recent(self, subject: Subject, count: int) -> list[int]:
        """Places of the newest items of a history, newest first."""
        return [int(i) for i in self._history(subject).row(0)[::-1][:count]]

    def user_place(self, user: str) -> int:
        """Row of a user.

        Raises:
            DataError: if there is none; names a few that there are.
        """
        place = self._user_places.get(user)
        if place is None:
            some = ", ".join(self.histories.user_ids[:5])
            raise DataError(
                f"{self.name} has no user {user!r}; it has {len(self.histories)}, among them {some}"
            )
        return place

    def item_place(self, item_id: str) -> int:
        """Place of an item in the catalogue.

        Raises:
            DataError: if there is none.
        """
        place = self._item_places.get(item_id)
        if place is None:
            raise DataError(f"{self.name} has no item {item_id!r} in its catalogue")
        return place

    def text_vectors(self, texts: Sequence[str]) -> Vectors:
        """Texts in the space of the item vectors, ``[texts, dim] float32``; nothing is kept."""
        return self.text_space.place(self.encoder.encode(texts))

    @cached_property
    def attributes(self) -> Attributes:
        """Of the catalogue, for filters and themes."""
        return Attributes(self.catalogue)

    @cached_property
    def index(self) -> ItemIndex:
        """For the best items of the whole catalogue."""
        statistics = self.scorer.statistics
        return ItemIndex(self.scorer.vectors, statistics.log_popularity, statistics.top)

    @cached_property
    def _user_places(self) -> Mapping[str, int]:
        return {user: place for place, user in enumerate(self.histories.user_ids)}

    @cached_property
    def _item_places(self) -> Mapping[str, int]:
        return {item: place for place, item in enumerate(self.catalogue.item_ids)}

    def _history(self, subject: Subject) -> PrivateHistories:
        """One row: a user's own, or that of the items given."""
        if isinstance(subject, str):
            return self.histories.select([self.user_place(subject)])
        items = np.array([self.item_place(item) for item in subject], dtype=np.int64)
        offsets = np.array([0, len(items)], dtype=np.int64)
        return PrivateHistories(("",), offsets, items, np.zeros(len(items)))

    @cached_property
    def _kept_states(self) -> dict[str, Scores]:
        return {}

    def _state(self, subject: Subject, histories: PrivateHistories) -> Scores | None:
        """The user model's state of a user, who is often asked about again with another need."""
        if not isinstance(subject, str) or not self.scorer.blend().adapter:
            return None
        state = self._kept_states.get(subject)
        if state is None:
            state = self.scorer.states(histories, np.array([0]))
            if len(self._kept_states) >= MOST_STATES:
                self._kept_states.clear()
            self._kept_states[subject] = state
        return state

    def _targets(self, query: Query, state: Scores | None = None) -> TargetsOf:
        """What users look for, by the weights and the wish of a query."""
        wish = self._wish(query)

        blend = self._blend(query)

        def targets(histories: PrivateHistories, users: Ints) -> Targets:
            found = self.scorer.targets(histories, users, wish, blend, state)
            if query.mode != "content" or wish is not None:
                return found
            # Of someone of whom nothing is known there is still what many have.
            unknown = histories.lengths[users] == 0
            return replace(found, prior=np.where(unknown, 1.0 - query.popularity_damping, 0.0))

        return targets

    def _blend(self, query: Query) -> Blend:
        blend = self.scorer.blend()
        if query.mode == "behaviour":
            blend = replace(blend, content=0.0, need=0.0)
        if query.mode == "content":
            blend = Blend(popularity=0.0, content=1.0, need=blend.need)
        return replace(blend, popularity=blend.popularity * (1.0 - query.popularity_damping))

    def _wish(self, query: Query) -> Vectors | None:
        """``[dim]`` vector of the need and the interests, each of equal weight."""
        stated = [*([] if query.need is None else [query.need]), *query.interests]
        if not stated:
            return None
        mean = self.text_vectors(stated).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)

    def _generated(
        self, row: Ints, query: Query, seen: Ints, allowed: npt.NDArray[np.bool_] | None
    ) -> list[Recommendation]:
        if self.generate is None:
            raise ConfigError(
                "mode generative needs a causal language model, and none is loaded here"
            )
        closed = seen if allowed is None else np.union1d(seen, np.flatnonzero(~allowed))
        need = "; ".join([*([query.need] if query.need else []), *query.interests]) or None
        return [
            self._line(place, score, {"generated": score})
            for place, score in self.generate(row, need, query.k, closed)
        ]

    def _lines(self, places: Ints, targets: Targets) -> list[Recommendation]:
        parts = self.scorer.parts(targets, places)
        scores = np.sum(list(parts.values()), axis=0)[0]
        return [
            self._line(
                int(place),
                float(scores[column]),
                {part: float(values[0, column]) for part, values in parts.items()},
            )
            for column, place in enumerate(places)
        ]

    def _line(self, place: int, score: float, parts: Mapping[str, float]) -> Recommendation:
        found = self.catalogue
        return Recommendation(
            found.item_ids[place], found.titles[place], found.texts[place], score, parts
        )


def checked(query: Query) -> Query:
    """The query without empty wishes.

    Raises:
        ConfigError: if it makes no sense.
    """
    need = query.need.strip() if query.need else ""
    found = replace(
        query,
        need=need or None,
        interests=tuple(text for text in query.interests if text.strip()),
    )
    if found.k < 1:
        raise ConfigError(f"k is {found.k}; a list has at least one item")
    for name in ("diversity", "popularity_damping"):
        value = getattr(found, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} is {value:g}; expected 0 to 1")
        if value and found.mode == "generative":
            raise ConfigError(f"mode generative takes no {name}: a language model ranks there")
    if found.mode == "behaviour" and (found.need or found.interests):
        raise ConfigError("mode behaviour takes no need and no interests; use hybrid or content")
    return found

"""Recommendations in words: a portrait and a sentence each, told as they are written.

A causal language model writes where there is one, within the facts and checked against them
(``client.recommend.writer``); otherwise templates speak. Nothing of it is in the path of a list.
"""

import threading
from collections.abc import Iterator

from client.recommend.facts import (
    Facts,
    RecommendationFacts,
    is_popular,
    portrait_facts,
    recommendation_facts,
)
from client.recommend.query import Explanation, Query
from client.recommend.recommender import Recommender
from client.recommend.templates import sentence
from client.recommend.titles import TitleNames
from client.recommend.writer import Writer, Written
from client.serving.events import Event
from client.serving.language import Language
from client.serving.metrics import Metrics
from shared.catalogue import Catalogue

RECENT = 3


class Speaker:
    """Tells about users of whichever recommender is in use.

    Args:
        language: the model that writes; None where templates speak.
        metrics: counts sentences by what wrote them.
    """

    def __init__(self, language: Language | None, metrics: Metrics) -> None:
        self._language = language
        self._metrics = metrics
        self._writer: tuple[Catalogue, Writer] | None = None

    def told(
        self, recommender: Recommender, user: str, k: int, need: str | None, stop: threading.Event
    ) -> Iterator[Event]:
        """A portrait, a sentence for each of ``k`` recommendations, and what wrote them.

        Args:
            recommender: in use.
            user: who is told.
            k: sentences.
            need: what is wanted, in words.
            stop: set by whoever listens no longer.

        Raises:
            AssetError: if the language model cannot be loaded.
        """
        query = Query(k=k, need=need)
        lines = recommender.recommend(user, query)
        identifiers = [line.item_id for line in lines]
        portrait = portrait_facts(
            recommender.interests(user), recommender.recent(user, RECENT), recommender.catalogue
        )
        reasons = [
            facts_of(recommender, explanation, need)
            for explanation in recommender.explain(user, identifiers, query)
        ]
        counts = {"written": 0, "retried": 0, "fallbacks": 0}
        heads: list[dict[str, str]] = [
            {},
            *({"item_id": line.item_id, "title": line.title} for line in lines),
        ]
        # Shorter than the heads where it was stopped.
        stream = self._stream(recommender, [portrait, *reasons], stop)
        for head, written in zip(heads, stream, strict=False):
            self._metrics.wrote(written.by)
            counts["written"] += 1
            counts["retried"] += written.by == "retry"
            counts["fallbacks"] += written.by == "template"
            name = "recommendation" if head else "portrait"
            yield name, {**head, "text": written.text, "by": written.by}
        if not stop.is_set():
            yield "done", {**counts, "model": self._language is not None}

    def _stream(
        self, recommender: Recommender, facts: list[Facts], stop: threading.Event
    ) -> Iterator[Written]:
        if self._language is None:
            return (Written(sentence(given), "template") for given in facts)
        catalogue = recommender.catalogue
        if self._writer is None or self._writer[0] is not catalogue:
            titles = TitleNames(catalogue.titles)
            self._writer = catalogue, Writer(self._language.causal(), titles)
        return self._writer[1].stream(facts, stop=stop)


def facts_of(
    recommender: Recommender, explanation: Explanation, need: str | None
) -> RecommendationFacts:
    """All that may be said of one recommendation."""
    place = recommender.item_place(explanation.item_id)
    popular = is_popular(recommender.scorer.statistics.log_popularity, place)
    return recommendation_facts(
        explanation, recommender.catalogue, recommender.item_place, need, popular
    )


def reason(recommender: Recommender, explanation: Explanation, need: str | None) -> str:
    """Why something is recommended, by template."""
    return sentence(facts_of(recommender, explanation, need))

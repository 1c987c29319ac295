"""What can be asked of a recommender, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["hybrid", "behaviour", "content", "generative"]


@dataclass(frozen=True)
class Filter:
    """A condition on an item's public attributes.

    Attributes:
        column: ``title``, ``year`` or another attribute of the catalogue.
        any_of: case-folded terms, one of which the item's value must have; empty: any value.
        least, most: bounds of a number, inclusive; None: unbounded.
    """

    column: str
    any_of: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Query:
    """How to rank for one user.

    Attributes:
        k: length of the list.
        need: what is wanted now, in words.
        interests: lasting interests that the user states, in words.
        exclude_seen: whether items of the history are left out.
        filters: all of which an item must satisfy.
        mode: ``behaviour`` ranks by what people had, ``content`` by item texts alone, ``hybrid`` by
            both; ``generative`` asks the causal language model for titles.
        diversity: 0 to 1; above 0 the list is chosen by maximal marginal relevance.
        popularity_damping: 0 to 1; 1 takes the popularity prior out of the score.
    """

    k: int = 10
    need: str | None = None
    interests: tuple[str, ...] = ()
    exclude_seen: bool = True
    filters: tuple[Filter, ...] = ()
    mode: Mode = "hybrid"
    diversity: float = 0.0
    popularity_damping: float = 0.0


@dataclass(frozen=True)
class Recommendation:
    """One line of a list.

    Attributes:
        item_id: the organisation's identifier.
        title: what a person calls it.
        text: title and attributes, as the model reads them.
        score: greater is better; compares items of one list only.
        parts: what the score is the sum of: ``popularity``, ``cooccurrence``, ``adapter``,
            ``content`` and ``need``.
    """

    item_id: str
    title: str
    text: str
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class HistoryReason:
    """An item of the history, and the score that is lost without it."""

    item_id: str
    title: str
    drop: float


@dataclass(frozen=True)
class WordReason:
    """A word of the item's text, and the score that is lost without it."""

    word: str
    drop: float


@dataclass(frozen=True)
class Explanation:
    """What carried one recommendation.

    Attributes:
        item_id, title, score, parts: as in the list.
        history: items whose removal lowers the score, largest drop first.
        together: score lost when all of ``history`` goes at once; above 0 where there is any.
        words: words of the item's text that matched what was asked for, largest drop first.
    """

    item_id: str
    title: str
    score: float
    parts: Mapping[str, float]
    history: tuple[HistoryReason, ...]
    together: float
    words: tuple[WordReason, ...]


@dataclass(frozen=True)
class Theme:
    """What recurs in a history.

    Attributes:
        name: a term of the items' attributes.
        column: the attribute.
        weight: share of the history that has it, newest interactions counting most.
        lift: that share over the catalogue's.
        shares: share within each period, oldest first.
    """

    name: str
    column: str
    weight: float
    lift: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Interests:
    """A user's themes over time.

    Attributes:
        periods: ``(from, to)`` in seconds since 1970, oldest first; equally many interactions each.
        themes: largest weight times log lift first.
    """

    periods: tuple[tuple[float, float], ...]
    themes: tuple[Theme, ...]


@dataclass(frozen=True)
class Delivery:
    """What the federation delivered last.

    Attributes:
        run: public name of the run; empty where no adapter came.
        round: of the adapter.
        adapter: whether an adapter is there and counts.
        stamp: changes with every delivery and every refresh of the data.
        own_cooccurrence: whether the organisation's own pairs count too, outside the guarantee.
    """

    run: str
    round: int
    adapter: bool
    stamp: str
    own_cooccurrence: bool = False

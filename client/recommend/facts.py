"""The facts that a sentence about a recommendation or a person's interests may be made of.

Nothing else reaches a template or a language model. Text from a catalogue is cleaned here once, so
that it can neither close a quotation nor start a new line.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from client.recommend.attributes import SEPARATORS
from client.recommend.query import Explanation, Interests, Theme
from shared.catalogue import Catalogue
from shared.statistics import Floats

Trend = Literal["rising", "falling", "steady"]

MOST_BECAUSE = 3
MOST_THEMES = 3
MOST_RECENT = 3
MOST_WORDS = 3
# A term of more words is prose, in which anything can be claimed.
LONGEST_TERM = 2
# An item is called popular where fewer than this share of the catalogue are more so.
POPULAR_SHARE = 0.1
# A theme drifts when its share changes by this much, and by half of what it was.
LEAST_DRIFT = 0.1

ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les?|La|L'|Il|El|Der|Die|Das)$")
ALTERNATIVE = re.compile(r"^(?P<title>.+?) \((?P<other>[^()]+)\)$")
# Every sign that a reader may take for a double quotation mark.
QUOTES = dict.fromkeys(
    map(ord, '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2033\u2036\uff02'), "'"
)


@dataclass(frozen=True)
class ItemFacts:
    """One item.

    Attributes:
        title: as a person reads it, without double quotation marks.
        year: empty where the catalogue has none.
        attributes: further attributes by column, each a list of short terms joined by ``", "``.
    """

    title: str
    year: str
    attributes: Mapping[str, str]

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of all attributes, each once."""
        found = (t for value in self.attributes.values() for t in value.split(", ") if t)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class RecommendationFacts:
    """Why one item is in a list.

    Attributes:
        item: what is recommended.
        because: items of the history that carried it, strongest first.
        words: words of its text that matched what was asked for.
        need: what was asked for, in the asker's words.
        popular: whether many people had it.
    """

    item: ItemFacts
    because: tuple[ItemFacts, ...] = ()
    words: tuple[str, ...] = ()
    need: str | None = None
    popular: bool = False

    @property
    def shared(self) -> tuple[str, ...]:
        """Terms of the item that every item of ``because`` has too; none without any."""
        if not self.because:
            return ()
        return tuple(t for t in self.item.terms if all(t in other.terms for other in self.because))


@dataclass(frozen=True)
class ThemeFacts:
    """A term that a history has more often than the catalogue.

    Attributes:
        name: the term.
        share: of the history, 0 to 1, newest interactions counting most.
        trend: how its share went from the older half of the history to the newer.
    """

    name: str
    share: float
    trend: Trend


@dataclass(frozen=True)
class PortraitFacts:
    """What is known of a person's interests: themes, strongest first, and the newest items."""

    themes: tuple[ThemeFacts, ...] = ()
    recent: tuple[ItemFacts, ...] = ()


Facts = RecommendationFacts | PortraitFacts


def item_facts(catalogue: Catalogue, place: int) -> ItemFacts:
    """The facts of one item of a catalogue."""
    attributes = {
        column: ", ".join(_terms(values[place]))
        for column, values in catalogue.attributes.items()
        if column != "year" and _terms(values[place])
    }
    year = clean(catalogue.attributes["year"][place]) if "year" in catalogue.attributes else ""
    return ItemFacts(natural_title(catalogue.titles[place]), year, attributes)


def recommendation_facts(
    explanation: Explanation,
    catalogue: Catalogue,
    place_of: Callable[[str], int],
    need: str | None = None,
    popular: bool = False,
) -> RecommendationFacts:
    """The facts of one explained recommendation.

    Args:
        explanation: of the item.
        catalogue: that it is from.
        place_of: from an item's identifier to its place (``Recommender.item_place``).
        need: what was asked for.
        popular: see ``is_popular``.
    """
    because = [item_facts(catalogue, place_of(reason.item_id)) for reason in explanation.history]
    words = [clean(reason.word) for reason in explanation.words]
    return RecommendationFacts(
        item=item_facts(catalogue, place_of(explanation.item_id)),
        because=_different(because)[:MOST_BECAUSE],
        words=tuple(dict.fromkeys(w for w in words if w.replace("-", "").isalpha()))[:MOST_WORDS],
        need=clean(need) or None if need else None,
        popular=popular,
    )


def portrait_facts(
    interests: Interests, recent: Sequence[int], catalogue: Catalogue
) -> PortraitFacts:
    """The facts of a person's interests.

    Args:
        interests: themes over time.
        recent: places of the newest items, newest first (``Recommender.recent``).
        catalogue: that they are from.
    """
    themes: dict[str, ThemeFacts] = {}
    for theme in interests.themes:
        for name in _terms(theme.name):
            themes.setdefault(name, ThemeFacts(name, theme.weight, trend_of(theme)))
    newest = [item_facts(catalogue, place) for place in recent]
    return PortraitFacts(tuple(themes.values())[:MOST_THEMES], _different(newest)[:MOST_RECENT])


def is_popular(log_popularity: Floats, place: int) -> bool:
    """Whether an item is among the catalogue's most popular, ``log_popularity`` ``[items]``."""
    more = np.count_nonzero(log_popularity > log_popularity[place])
    return bool(more < POPULAR_SHARE * len(log_popularity))


def trend_of(theme: Theme) -> Trend:
    """How a theme's share went from the older half of the periods to the newer."""
    half = len(theme.shares) // 2
    if not half:
        return "steady"
    old, new = float(np.mean(theme.shares[:half])), float(np.mean(theme.shares[-half:]))
    if abs(new - old) < max(LEAST_DRIFT, 0.5 * min(old, new)):
        return "steady"
    return "rising" if new > old else "falling"


def clean(text: str) -> str:
    """Text of one line, without control characters and double quotation marks.

    >>> clean('Say "no"' + chr(10) + 'now')
    "Say 'no' now"
    """
    composed = unicodedata.normalize("NFC", text).translate(QUOTES)
    return " ".join("".join(c if c.isprintable() else " " for c in composed).split())


def natural_title(title: str) -> str:
    """A title as a person says it: its article in front.

    >>> natural_title("Godfather, The"), natural_title("Cérémonie, La (The Ceremony)")
    ('The Godfather', 'La Cérémonie (The Ceremony)')
    """
    title = clean(title)
    alternative = ALTERNATIVE.match(title)
    if alternative:
        parts = natural_title(alternative["title"]), natural_title(alternative["other"])
        return f"{parts[0]} ({parts[1]})"
    found = ARTICLE.match(title)
    if not found:
        return title
    space = "" if found["article"].endswith("'") else " "
    return f"{found['article']}{space}{found['rest']}"


def title_names(title: str) -> tuple[str, ...]:
    """The ways in which a text may name a title: as it is, and each of two titles alone.

    >>> title_names("Shanghai Triad (Yao a yao)")
    ('Shanghai Triad (Yao a yao)', 'Shanghai Triad', 'Yao a yao')
    """
    natural = natural_title(title)
    found = ALTERNATIVE.match(natural)
    return (natural, found["title"], found["other"]) if found else (natural,)


def _terms(value: str) -> tuple[str, ...]:
    """Short terms of an attribute; what is prose or has digits in it is left out."""
    terms = (clean(term) for term in SEPARATORS.split(value))
    return tuple(
        t
        for t in terms
        if any(c.isalpha() for c in t) and len(t.split()) <= LONGEST_TERM and _plain_signs(t)
    )


def _plain_signs(term: str) -> bool:
    return all(c.isalpha() or c in " '\u2019&.-" for c in term)


def _different(items: Sequence[ItemFacts]) -> tuple[ItemFacts, ...]:
    found: dict[tuple[str, str], ItemFacts] = {}
    for item in items:
        found.setdefault((item.title, item.year), item)
    return tuple(found.values())

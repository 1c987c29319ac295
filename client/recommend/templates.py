"""Plain sentences made of facts alone: what is said where no language model is, or none is needed.

Titles and the asker's own words stand in double quotation marks, so that nothing in a catalogue can
pass for a statement of ours.
"""

from collections.abc import Sequence

from client.recommend.facts import (
    Facts,
    ItemFacts,
    PortraitFacts,
    RecommendationFacts,
    Trend,
)


def sentence(facts: Facts) -> str:
    """What the facts say, in plain English."""
    if isinstance(facts, PortraitFacts):
        return portrait(facts)
    return recommendation(facts)


def recommendation(facts: RecommendationFacts) -> str:
    """Why one item is recommended, in one sentence.

    >>> from client.recommend.facts import ItemFacts
    >>> item, one, two = (ItemFacts(title, "", {}) for title in ("Babe", "Heat", "Alien"))
    >>> recommendation(RecommendationFacts(item, (one, two)))
    'Because of "Heat" and "Alien" in your history.'
    >>> recommendation(RecommendationFacts(item, (one,), ("comedy",), "light comedy"))
    'Because of "Heat" in your history; its text matches "light comedy" by the word comedy.'
    >>> recommendation(RecommendationFacts(item, popular=True))
    'Popular with many people.'
    """
    parts = []
    if facts.because:
        titles = listed([quoted(item) for item in facts.because])
        parts.append(f"because of {titles} in your history")
    if facts.words:
        wish = f'"{facts.need}"' if facts.need else "what you asked for"
        noun = "word" if len(facts.words) == 1 else "words"
        parts.append(f"its text matches {wish} by the {noun} {listed(facts.words)}")
    elif facts.need and not parts:
        parts.append(f'no single word of its text stands out for "{facts.need}"')
    if facts.popular and not parts:
        parts.append("popular with many people")
    if not parts:
        parts.append("no single reason stands out")
    return _capital("; ".join(parts)) + "."


def portrait(facts: PortraitFacts) -> str:
    """What a person's interests are, in up to three sentences.

    >>> from client.recommend.facts import ThemeFacts
    >>> drama, war = ThemeFacts("Drama", 0.6, "steady"), ThemeFacts("War", 0.2, "rising")
    >>> portrait(PortraitFacts((drama, war), (ItemFacts("Heat", "1995", {}),)))
    'Drama and War stand out in your history. War has become more common. The newest is "Heat".'
    """
    parts = []
    names = [theme.name for theme in facts.themes]
    if names:
        verb = "stands" if len(names) == 1 else "stand"
        parts.append(f"{listed(names)} {verb} out in your history")
    drifts = [
        f"{listed(found)} {'has' if len(found) == 1 else 'have'} become {change} common"
        for change, found in (("more", _names(facts, "rising")), ("less", _names(facts, "falling")))
        if found
    ]
    if drifts:
        parts.append("; ".join(drifts))
    if facts.recent:
        verb = "is" if len(facts.recent) == 1 else "are"
        parts.append(f"the newest {verb} {listed([quoted(item) for item in facts.recent])}")
    if not parts:
        parts.append("your history does not say much yet")
    return " ".join(f"{_capital(part)}." for part in parts)


def quoted(item: ItemFacts) -> str:
    """A title in quotation marks."""
    return f'"{item.title}"'


def listed(words: Sequence[str]) -> str:
    """Words in a row.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _names(facts: PortraitFacts, trend: Trend) -> list[str]:
    return [theme.name for theme in facts.themes if theme.trend == trend]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

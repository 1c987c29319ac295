"""What a language model is told: facts as a list, after examples of made-up items."""

from torch import Tensor

from client.recommend.causal import CausalModel, Message
from client.recommend.facts import Facts, ItemFacts, PortraitFacts, RecommendationFacts, ThemeFacts
from client.recommend.templates import listed, quoted

RECOMMENDATION = (
    "You write one short sentence that tells a person why an item is recommended. Use only the "
    "facts given. Titles stand in quotation marks."
)
PORTRAIT = (
    "You write two short sentences that tell a person what their interests are. Use only the facts "
    "given. Titles stand in quotation marks."
)


def prompt_of(causal: CausalModel, facts: Facts) -> Tensor:
    """The conversation in which a model is told some facts, ``[1, length]`` tokens."""
    if isinstance(facts, PortraitFacts):
        messages = [*_portraits(facts), ("user", portrait_lines(facts))]
        return causal.prompt(PORTRAIT, messages)
    messages = [*RECOMMENDATIONS, ("user", recommendation_lines(facts))]
    return causal.prompt(RECOMMENDATION, messages)


def recommendation_lines(facts: RecommendationFacts) -> str:
    """Facts as a list, titles and needs in quotation marks."""
    lines = [f"Recommended: {quoted(facts.item)}"]
    if facts.item.terms:
        lines.append(f"It is: {listed(facts.item.terms)}")
    if facts.because:
        lines.append(f"In your history: {listed([quoted(item) for item in facts.because])}")
    if facts.shared:
        lines.append(f"In common: {listed(facts.shared)}")
    if facts.need:
        lines.append(f'You asked for: "{facts.need}"')
    if facts.words:
        lines.append(f"Words that match: {listed(facts.words)}")
    return "\n".join(lines)


def portrait_lines(facts: PortraitFacts) -> str:
    """Facts as a list, titles in quotation marks."""
    lines = []
    if facts.themes:
        lines.append(f"Themes of your history: {listed([theme.name for theme in facts.themes])}")
    for trend in ("rising", "falling"):
        names = [theme.name for theme in facts.themes if theme.trend == trend]
        if names:
            lines.append(f"{trend.capitalize()}: {listed(names)}")
    if facts.recent:
        lines.append(f"Newest: {listed([quoted(item) for item in facts.recent])}")
    return "\n".join(lines)


def _item(title: str, *terms: str) -> ItemFacts:
    return ItemFacts(title, "", {"kinds": ", ".join(terms)} if terms else {})


def _turns(facts: Facts, text: str) -> tuple[Message, Message]:
    lines = (
        portrait_lines(facts) if isinstance(facts, PortraitFacts) else recommendation_lines(facts)
    )
    return ("user", lines), ("assistant", text)


# Made-up items: what a model copies of them is no fact, and cannot be written.
RECOMMENDATIONS: tuple[Message, ...] = (
    *_turns(
        RecommendationFacts(
            _item("The Glass Harbour", "Mystery", "Drama"),
            (_item("Nine Lanterns", "Drama"), _item("Winterfold", "Drama")),
        ),
        '"The Glass Harbour" is a drama like "Nine Lanterns" and "Winterfold" in your history.',
    ),
    *_turns(
        RecommendationFacts(
            _item("Copper Moon", "Fantasy"),
            (_item("Salt Road", "Western"),),
            ("fantasy",),
            "something magical",
        ),
        '"Copper Moon" matches "something magical" by the word fantasy, and may suit you because '
        'of "Salt Road" in your history.',
    ),
    *_turns(
        RecommendationFacts(_item("A Quiet Orchard", "Romance", "Comedy"), (_item("Paper Kites"),)),
        '"A Quiet Orchard" is a romance and a comedy, and may suit you because of "Paper Kites" '
        "in your history.",
    ),
)
STEADY: tuple[Message, ...] = _turns(
    PortraitFacts(
        (ThemeFacts("Mystery", 0.5, "steady"), ThemeFacts("Satire", 0.3, "steady")),
        (_item("Nine Lanterns"), _item("Winterfold")),
    ),
    "Your history leans towards mystery and satire. "
    'The newest are "Nine Lanterns" and "Winterfold".',
)
RISING: tuple[Message, ...] = _turns(
    PortraitFacts(
        (ThemeFacts("Satire", 0.5, "steady"), ThemeFacts("Fantasy", 0.3, "rising")),
        (_item("Copper Moon"), _item("Salt Road")),
    ),
    "Your history leans towards satire, with a growing interest in fantasy. "
    'The newest are "Copper Moon" and "Salt Road".',
)
FALLING: tuple[Message, ...] = _turns(
    PortraitFacts(
        (ThemeFacts("Romance", 0.5, "steady"), ThemeFacts("Satire", 0.3, "falling")),
        (_item("Paper Kites"), _item("Tin Parade")),
    ),
    "You keep to romance, while your interest in satire is fading. "
    'The newest are "Paper Kites" and "Tin Parade".',
)


def _portraits(facts: PortraitFacts) -> tuple[Message, ...]:
    """Examples of what these facts let one say: a model repeats what it was shown."""
    trends = {theme.trend for theme in facts.themes}
    examples = STEADY
    if "rising" in trends:
        examples += RISING
    if "falling" in trends:
        examples += FALLING
    return examples

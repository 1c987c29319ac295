"""Whether a text says nothing but facts: what stands between a language model and a person.

The check is a grammar (``grammar.py``), not a list of what is forbidden. A text is made of plain
words (a closed list, ``plain_words.py``), terms that are among the facts, and titles that are among
the facts, in double quotation marks. Whatever else stands there is a fault: a foreign title, name,
number, script or address need not be recognised to be found. So what an item's text tells a model
to write cannot get through either. Beyond that, what is said of one item must not be said of
another: the item recommended comes first or not at all, and a term must belong to what it is said
of.

What the check cannot see: nonsense in plain words, and whether a true sentence is a good one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from client.recommend import plain_words
from client.recommend.facts import Facts, PortraitFacts, RecommendationFacts
from client.recommend.grammar import Fault, Grammar, Piece
from client.recommend.titles import TitleNames, folded_words

MOST_PIECES = {"recommendation": 40, "portrait": 70}
MOST_SENTENCES = {"recommendation": 1, "portrait": 3}
LEAST_WORDS = 3


def check(text: str, facts: Facts, catalogue_titles: TitleNames) -> list[Fault]:
    """What in a text is not among the facts; nothing if it may be shown.

    Args:
        text: as a model wrote it.
        facts: that it was to be made of.
        catalogue_titles: of all items, so that a title made of plain words is found too.
    """
    return Grounds(facts).check(text, catalogue_titles)


class Grounds:
    """What a text about some facts may say.

    Args:
        facts: all that may be said.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.kind = "portrait" if isinstance(facts, PortraitFacts) else "recommendation"
        self._grammar = grammar_of(facts)

    def check(self, text: str, catalogue_titles: TitleNames) -> list[Fault]:
        """As the function ``check``."""
        found = self._grammar.scan(text)
        faults = list(found.faults)
        if found.rest:
            faults.append(Fault("title", found.rest))
        if text[:1].islower():
            faults.append(Fault("form", "no capital at the beginning"))
        faults += claims(found.pieces, self.facts)
        faults += _foreign_titles(found.pieces, catalogue_titles)
        return faults + self._form(found.pieces)

    def continues(self, text: str) -> bool:
        """Whether a text may be the start of one that passes ``check``, catalogue titles aside."""
        found = self._grammar.scan(text, whole=False)
        pieces, rest = found.pieces, found.rest
        if found.faults or text[:1].islower() or len(pieces) > MOST_PIECES[self.kind]:
            return False
        if claims(pieces, self.facts):
            return False
        if _ended(pieces) >= MOST_SENTENCES[self.kind]:
            return not rest and not self._form(pieces)
        if not rest:
            return True
        first = not pieces or pieces[-1].ends
        return any(
            not claims([*pieces, piece], self.facts) for piece in self._grammar.grown(rest, first)
        )

    def finished(self, text: str) -> bool:
        """Whether a text has all the sentences that it may have."""
        return _ended(self._grammar.scan(text).pieces) >= MOST_SENTENCES[self.kind]

    def _form(self, pieces: Sequence[Piece]) -> list[Fault]:
        faults = []
        if not pieces or not pieces[-1].ends:
            faults.append(Fault("form", "no end of a sentence"))
        if _ended(pieces) > MOST_SENTENCES[self.kind]:
            faults.append(Fault("length", f"{_ended(pieces)} sentences"))
        if len(pieces) > MOST_PIECES[self.kind]:
            faults.append(Fault("length", f"{len(pieces)} words and marks"))
        if sum(piece.kind == "word" for piece in pieces) < LEAST_WORDS:
            faults.append(Fault("form", "too few words"))
        faults += [Fault("form", f"{a.text} {b.text}") for a, b in pairwise(pieces) if a == b]
        if not _names_reason(pieces, self.facts):
            faults.append(Fault("form", "none of the reasons is in it"))
        return faults


def grammar_of(facts: Facts) -> Grammar:
    """What a text about some facts may be made of."""
    names: dict[str, Piece] = {}
    if isinstance(facts, PortraitFacts):
        for item in facts.recent:
            names.setdefault(item.title, Piece("reason", item.title, item))
        return Grammar(names, _forms([theme.name for theme in facts.themes]), _plain(facts))
    names[facts.item.title] = Piece("item", facts.item.title, facts.item)
    for item in facts.because:
        names.setdefault(item.title, Piece("reason", item.title, item))
    if facts.need:
        names.setdefault(facts.need, Piece("need", facts.need))
    return Grammar(names, _forms([*facts.item.terms, *facts.words]), _plain(facts))


def claims(pieces: Sequence[Piece], facts: Facts) -> list[Fault]:
    """What pieces of a text, each permitted, say of the wrong item."""
    named = [piece for piece in pieces if piece.kind in ("item", "reason", "need")]
    faults = [Fault("claim", f"{p.text} twice") for p in named if named.count(p) > 1]
    faults += [
        Fault("form", f"{a.text} {b.text}") for a, b in pairwise(pieces) if _wrong_article(a, b)
    ]
    for spoken in _sentences(pieces):
        if isinstance(facts, PortraitFacts):
            faults += _of_portrait(spoken, facts)
        else:
            faults += _of_recommendation(spoken, facts)
    return faults


def _of_recommendation(spoken: Sequence[Piece], facts: RecommendationFacts) -> list[Fault]:
    faults = []
    comparing = any(p.kind == "word" and p.text in plain_words.COMPARING for p in spoken)
    matched = {word.casefold() for word in facts.words}
    # Whether the sentence speaks of an item of the history, has named one, lists words that match,
    # or lists items.
    about_reason = reasons = listing = in_row = False
    before = Piece("mark", "")
    for place, piece in enumerate(spoken):
        wrong = ""
        if listing and piece.kind == "term" and piece.text.casefold() not in matched:
            wrong = "is no word that matches"
        listing = piece.text in plain_words.WORDS or (
            listing and (piece.kind == "term" or piece.text in ("and", ","))
        )
        if piece.kind == "item":
            following = spoken[place + 1].text if place + 1 < len(spoken) else ""
            if place or (following and following not in plain_words.AFTER_ITEM):
                wrong = "is what is recommended"
        elif piece.kind == "reason":
            about_reason = reasons = True
            if not place or before.text in plain_words.WORDS:
                wrong = "is what was had"
            elif before.text in ("and", ",") and not in_row:
                wrong = "begins a row"
        elif piece.kind == "need":
            if about_reason or before.text not in plain_words.BEFORE_NEED:
                wrong = "is what was asked for"
        elif piece.kind == "term":
            if piece in spoken[:place]:
                wrong = "stands there twice"
            elif piece.text not in facts.shared and (about_reason or comparing):
                wrong = f"is of {facts.item.title} alone"
        elif piece.kind == "word":
            if before.kind == "reason" and piece.text in plain_words.AFTER_REASON:
                wrong = f"is said of {before.text}"
            about_reason = about_reason and piece.text not in ("it", "its", "this")
            if about_reason and piece.text in plain_words.RECOMMENDING:
                wrong = "is said of what was had"
            if piece.text in plain_words.HAD and not reasons and spoken[0].kind == "item":
                wrong = f"is said of {facts.item.title}"
        if wrong:
            faults.append(Fault("claim", f"{piece.text} {wrong}"))
        in_row = piece.kind == "reason" or (in_row and piece.text in ("and", ","))
        before = piece
    return faults


def _of_portrait(spoken: Sequence[Piece], facts: PortraitFacts) -> list[Fault]:
    faults = []
    trends = {theme.name: theme.trend for theme in facts.themes}
    items = [piece.item for piece in spoken if piece.item]
    themes = [piece.text for piece in spoken if piece.kind == "term"]
    faults += [Fault("claim", f"{t} twice") for t in themes if themes.count(t) > 1]
    for theme in themes:
        faults += [
            Fault("claim", f"{theme} is not of {item.title}")
            for item in items
            if theme not in item.terms
        ]
    for part in _clauses(spoken):
        words = {piece.text for piece in part if piece.kind == "word"}
        for trend, said in (("rising", plain_words.RISING), ("falling", plain_words.FALLING)):
            wrong = [p.text for p in part if p.kind == "term" and trends[p.text] != trend]
            if words & said and _closes(part[-1]) and not any(p.kind == "term" for p in part):
                faults.append(Fault("claim", f"nothing is {trend}"))
            if words & said:
                faults += [Fault("claim", f"{theme} is not {trend}") for theme in wrong]
    return faults


def _names_reason(pieces: Sequence[Piece], facts: Facts) -> bool:
    """Whether one of the reasons, where there are any, is in a text."""
    kinds = {piece.kind for piece in pieces}
    if isinstance(facts, PortraitFacts):
        return bool(kinds & {"term", "reason"}) or not (facts.themes or facts.recent)
    if facts.because or facts.need:
        return bool(kinds & {"reason", "need"})
    return True


def _plain(facts: Facts) -> frozenset[str]:
    """The plain words that hold under some facts."""
    if isinstance(facts, PortraitFacts):
        trends = {theme.trend for theme in facts.themes}
        conditions = [
            (True, plain_words.OF_HISTORY | plain_words.OF_PORTRAIT),
            (bool(facts.recent), plain_words.OF_RECENT),
            ("rising" in trends, plain_words.RISING),
            ("falling" in trends, plain_words.FALLING),
            (not (facts.themes or facts.recent), plain_words.OF_NOTHING),
        ]
    else:
        conditions = [
            (True, plain_words.OF_RECOMMENDATION),
            (bool(facts.because), plain_words.OF_HISTORY),
            (bool(facts.need or facts.words), plain_words.OF_WISH),
            (facts.popular, plain_words.OF_POPULARITY),
            (bool(facts.shared), plain_words.COMPARING),
            (not (facts.because or facts.words), plain_words.OF_NOTHING),
        ]
    return plain_words.PLAIN.union(*(words for holds, words in conditions if holds))


def _forms(terms: Iterable[str]) -> dict[str, str]:
    """The ways in which terms may be written, each with its term."""
    forms: dict[str, str] = {}
    for term in terms:
        lower = term.lower()
        plural = (f"{lower}s",) if lower[-1:].isalpha() and lower[-1] not in "sy" else ()
        for form in (term, lower, *plural):
            forms.setdefault(form, term)
    return forms


def _foreign_titles(pieces: Sequence[Piece], titles: TitleNames) -> list[Fault]:
    """Titles of the catalogue that stand outside of quotation marks."""
    faults = []
    run: list[tuple[str, int]] = []
    for place, piece in enumerate([*pieces, Piece("need", "")]):
        if piece.kind in ("word", "term"):
            run += [(word, place) for word in folded_words(piece.text)]
        elif piece.kind != "mark":
            spoken = [word for word, _ in run]
            for start, end in titles.within(spoken):
                # A term may be a title's words: it stands for itself.
                if run[start][1] != run[end - 1][1]:
                    faults.append(Fault("title", " ".join(spoken[start:end])))
            run = []
    return faults


def _wrong_article(one: Piece, other: Piece) -> bool:
    if one.kind != "word" or one.text not in ("a", "an") or other.kind not in ("word", "term"):
        return False
    # Before u, h and o it is the sound that decides.
    begins = other.text[:1].lower()
    return begins in "aei" if one.text == "a" else begins not in "aeiouh"


def _ended(pieces: Sequence[Piece]) -> int:
    return sum(piece.ends for piece in pieces)


def _sentences(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    start = 0
    for place, piece in enumerate(pieces):
        if piece.ends or place == len(pieces) - 1:
            yield pieces[start : place + 1]
            start = place + 1


def _clauses(spoken: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Parts of a sentence of which each says one thing of its themes."""
    start = 0
    for place, piece in enumerate(spoken):
        if _closes(piece) or place == len(spoken) - 1:
            yield spoken[start : place + 1]
            start = place + 1


def _closes(piece: Piece) -> bool:
    return piece.ends or piece.text in plain_words.BETWEEN_CLAUSES

"""The grammar of texts that are made of facts: plain words, terms, quoted names and a few marks."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from client.recommend import plain_words
from client.recommend.facts import ItemFacts
from client.recommend.titles import WORD

FaultKind = Literal["title", "name", "number", "word", "sign", "claim", "form", "length"]
PieceKind = Literal["word", "term", "item", "reason", "need", "mark"]

MARKS = ",;.!"
ENDS = ".!"
YEAR = re.compile(r" \((?P<digits>\d*)(?P<closed>\)?)")


@dataclass(frozen=True)
class Fault:
    """Something in a text that is not among the facts.

    Attributes:
        kind: ``title``, ``name``, ``number``, ``word`` or ``sign`` that is foreign; ``claim``:
            something said of the wrong item; ``form``: no whole sentence, or no reason in it;
            ``length``: too much.
        found: the place in the text.
    """

    kind: FaultKind
    found: str


@dataclass(frozen=True)
class Piece:
    """A part of a text that is permitted by itself; names and terms as the facts have them."""

    kind: PieceKind
    text: str
    item: ItemFacts | None = None

    @property
    def ends(self) -> bool:
        """Whether a sentence ends here."""
        return self.kind == "mark" and self.text in ENDS


@dataclass(frozen=True)
class Scanned:
    """A text in pieces.

    Attributes:
        pieces: in order, without what is faulty.
        faults: what is in no grammar.
        rest: what begins at the end of the text and is not complete.
    """

    pieces: list[Piece]
    faults: list[Fault]
    rest: str


@dataclass(frozen=True)
class Grammar:
    """What a text may be made of.

    Attributes:
        names: what may stand in quotation marks, and the piece that it makes.
        terms: what may stand without, as it may be written, with the term as the facts have it.
        plain: further words, in lower case.
    """

    names: Mapping[str, Piece]
    terms: Mapping[str, str]
    plain: frozenset[str]

    def scan(self, text: str, whole: bool = True) -> Scanned:
        """A text in pieces.

        Args:
            text: to read.
            whole: False where the text may go on: a word or year at its very end is part of the
                rest while it may still become one that is permitted.
        """
        pieces: list[Piece] = []
        faults: list[Fault] = []
        at, end = 0, len(text)
        while at < end:
            sign, before = text[at], text[at - 1] if at else ""
            if sign == " " and before not in ("", " "):
                at += 1
            elif sign in MARKS:
                if not pieces or pieces[-1].kind == "mark" or before == " ":
                    faults.append(Fault("sign", before + sign))
                pieces.append(Piece("mark", sign))
                at += 1
            elif sign != '"' and not sign.isalnum():
                faults.append(Fault("sign", sign))
                at += 1
            else:
                if before not in ("", " "):
                    faults.append(Fault("sign", before + sign))
                read = self._quoted if sign == '"' else self._spoken
                first = not pieces or pieces[-1].ends
                found = read(text, at, first, whole)
                if found is None:
                    return Scanned(pieces, faults, text[at:])
                piece, after = found
                if isinstance(piece, Piece):
                    pieces.append(piece)
                else:
                    faults.append(piece)
                at = after
        return Scanned(pieces, faults, "")

    def grown(self, rest: str, first: bool) -> Iterator[Piece]:
        """What the incomplete end of a text may become.

        Args:
            rest: as ``scan`` gives it.
            first: whether a sentence begins with it.
        """
        if rest.startswith('"'):
            for name, piece in self.names.items():
                years = ["", f" ({piece.item.year})"] if piece.item and piece.item.year else [""]
                if any(f'"{name}"{year}'.startswith(rest) for year in years):
                    yield piece
            return
        starts = {rest}
        if first and rest[0].isupper():
            starts.add(rest[0].lower() + rest[1:])
        for start in starts:
            place = bisect_left(self._beginnings, start)
            while place < len(self._beginnings) and self._beginnings[place].startswith(start):
                form = self._beginnings[place]
                if form in self.terms:
                    yield Piece("term", self.terms[form])
                elif start == rest or form in plain_words.OPENERS:
                    yield Piece("word", form)
                place += 1

    @cached_property
    def _beginnings(self) -> list[str]:
        return sorted([*self.plain, *self.terms])

    @cached_property
    def _longest_first(self) -> list[str]:
        return sorted(self.terms, key=len, reverse=True)

    def _quoted(
        self, text: str, at: int, first: bool, whole: bool
    ) -> tuple[Piece | Fault, int] | None:
        """A name in quotation marks with its own year, or none; and the place after it."""
        end = text.find('"', at + 1)
        if end < 0:
            return None
        name = text[at + 1 : end]
        piece = self.names.get(name)
        if piece is None:
            return Fault("title", name), end + 1
        year = YEAR.match(text, end + 1)
        if year is None:
            return piece, end + 1
        own = piece.item.year if piece.item else ""
        if own and year["digits"] == own and year["closed"]:
            return piece, year.end()
        if not whole and year.end() == len(text) and own.startswith(year["digits"]) and own:
            return None
        return Fault("number", year["digits"]), year.end()

    def _spoken(
        self, text: str, at: int, first: bool, whole: bool
    ) -> tuple[Piece | Fault, int] | None:
        """A term or a plain word, or neither; and the place after it."""
        if not whole and any(True for _ in self.grown(text[at:], first)):
            return None
        for form in self._longest_first:
            if _stands_at(text, at, form, first):
                return Piece("term", self.terms[form]), at + len(form)
        match = WORD.match(text, at)
        word = match[0] if match else text[at]
        after, lower = at + len(word), word.lower()
        opens = first and word == word.capitalize() and lower in plain_words.OPENERS
        if lower in self.plain and (word == lower or opens):
            return Piece("word", lower), after
        if any(c.isdigit() for c in word):
            return Fault("number", word), after
        return Fault("name" if word[0].isupper() else "word", word), after


def _stands_at(text: str, at: int, form: str, first: bool) -> bool:
    part = text[at : at + len(form)]
    after = text[at + len(form) : at + len(form) + 1]
    same = part == form or (first and part[:1].lower() + part[1:] == form)
    return same and not (after.isalnum() or after in ("'", "\u2019", "-", "_"))

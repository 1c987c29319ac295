"""Titles of a catalogue: whether a text names one, and which tokens go on towards one."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.recommend import plain_words
from client.recommend.facts import title_names
from shared.catalogue import key_hash
from shared.scoring import Ints

WORD = re.compile(r"\w(?:[\w'\u2019-]*\w)?")

Tokens = npt.NDArray[np.int32]


class TitleNames:
    """The titles of two words or more of a catalogue, as hashes of their words: 8 bytes each."""

    def __init__(self, titles: Iterable[str]) -> None:
        hashes, self._longest = set(), 0
        for title in titles:
            for name in title_names(title):
                folded = folded_words(name)
                if len(folded) > 1 and not plain_words.OPENERS.issuperset(folded):
                    hashes.add(key_hash(" ".join(folded)))
                    self._longest = max(self._longest, len(folded))
        self._hashes = np.array(sorted(hashes), dtype=np.uint64)

    def within(self, spoken: Sequence[str]) -> Iterator[tuple[int, int]]:
        """From and to of every title in a row of case-folded words."""
        for start in range(len(spoken)):
            for end in range(start + 2, min(len(spoken), start + self._longest) + 1):
                wanted = np.uint64(key_hash(" ".join(spoken[start:end])))
                place = int(np.searchsorted(self._hashes, wanted))
                if place < len(self._hashes) and self._hashes[place] == wanted:
                    yield start, end


def folded_words(text: str) -> list[str]:
    """The words of a text, case-folded."""
    return [word.casefold() for word in WORD.findall(text)]


@dataclass(frozen=True)
class Node:
    """The titles that begin with the same ``depth`` tokens: rows ``start`` to ``end`` of a trie."""

    start: int
    end: int
    depth: int


class TitleTrie:
    """A prefix tree over titles as tokens, kept as one sorted array: a node is a range of rows.

    Every title ends with the same token, which stands nowhere else, so no title is another's
    beginning. Items of the same title lie under one leaf.

    Args:
        titles: tokens of each item's title, without the end.
        end: token that ends a title.
    """

    def __init__(self, titles: Iterable[Sequence[int]], end: int) -> None:
        rows = [np.array([*tokens, end], dtype=np.int32) for tokens in titles]
        order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">u4").tobytes())
        self.end = end
        self._places = np.array(order, dtype=np.int64)
        self._rows = np.empty(len(rows), dtype=np.int64)
        self._rows[self._places] = np.arange(len(rows))
        lengths = np.array([len(rows[i]) for i in order], dtype=np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self._tokens = np.concatenate([rows[i] for i in order]) if rows else np.empty(0, np.int32)
        self.root = Node(0, len(rows), 0)

    def closed(self, places: Ints) -> Ints:
        """Rows of items that may not come out, sorted; for ``children`` and ``items``."""
        return np.unique(self._rows[places])

    def children(self, node: Node, closed: Ints) -> tuple[Tokens, list[Node]]:
        """Tokens that go on towards an open title, in order, and where each leads."""
        if node.start == node.end:
            return np.empty(0, np.int32), []
        column = self._tokens[self._offsets[node.start : node.end] + node.depth]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(column)) + 1]) + node.start
        ends = np.concatenate([starts[1:], [node.end]])
        shut = np.searchsorted(closed, ends) - np.searchsorted(closed, starts)
        open_ = np.flatnonzero(shut < ends - starts)
        nodes = [Node(int(starts[i]), int(ends[i]), node.depth + 1) for i in open_]
        return column[starts[open_] - node.start], nodes

    def items(self, node: Node, closed: Ints) -> Ints:
        """Places of the open items under a node, in the order of the catalogue."""
        rows = np.setdiff1d(np.arange(node.start, node.end), closed, assume_unique=True)
        return np.sort(self._places[rows])

    def allowed(self, prefix: Sequence[int], closed: Ints | None = None) -> list[int]:
        """Tokens that may follow some tokens; none after a whole title or what begins none."""
        shut = np.empty(0, dtype=np.int64) if closed is None else closed
        node = self.root
        for token in prefix:
            if node.depth and prefix[node.depth - 1] == self.end:
                return []
            tokens, nodes = self.children(node, shut)
            found = np.flatnonzero(tokens == token)
            if not len(found):
                return []
            node = nodes[int(found[0])]
        if prefix and prefix[-1] == self.end:
            return []
        return [int(token) for token in self.children(node, shut)[0]]

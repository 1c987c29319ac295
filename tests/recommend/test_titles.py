"""Titles: a trie that leads to whole titles alone, and never to a closed item."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.titles import TitleNames, TitleTrie

END = 0
NONE = np.empty(0, dtype=np.int64)

titles = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=5), min_size=1, max_size=30)


def walks(trie: TitleTrie, closed: list[int]) -> dict[tuple[int, ...], list[int]]:
    """Every whole title that a trie leads to, with the items there."""
    shut = trie.closed(np.array(closed, dtype=np.int64))
    found: dict[tuple[int, ...], list[int]] = {}
    open_ = [((), trie.root)]
    while open_:
        before, node = open_.pop()
        for token, child in zip(*trie.children(node, shut), strict=True):
            tokens = (*before, int(token))
            if token == END:
                found[tokens] = trie.items(child, shut).tolist()
            else:
                open_.append((tokens, child))
    return found


@given(titles, st.data())
def test_a_trie_leads_to_every_open_title_and_to_nothing_else(
    rows: list[list[int]], data: st.DataObject
) -> None:
    closed = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    expected: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if place not in closed:
            expected.setdefault((*row, END), []).append(place)
    assert walks(TitleTrie(rows, END), closed) == expected


def test_allowed_tokens_follow_a_prefix_and_stop_at_a_whole_title() -> None:
    trie = TitleTrie([[5, 6], [5], [7, 300], [5, 6]], END)
    assert trie.allowed([]) == [5, 7]
    assert trie.allowed([5]) == [END, 6]
    assert trie.allowed([7]) == [300]
    assert trie.allowed([5, END]) == []
    assert trie.allowed([9]) == []


def test_what_is_closed_is_not_allowed_even_at_an_inner_node() -> None:
    trie = TitleTrie([[5, 6], [5], [7, 300], [5, 6]], END)
    assert trie.allowed([], trie.closed(np.array([2]))) == [5]
    assert trie.allowed([5], trie.closed(np.array([0]))) == [END, 6]
    assert trie.allowed([5], trie.closed(np.array([0, 3]))) == [END]


def test_a_trie_of_no_titles_allows_nothing() -> None:
    assert TitleTrie([], END).allowed([]) == []


@pytest.mark.parametrize(
    ("spoken", "found"),
    [("i saw the godfather once", True), ("the glass", False), ("godfather", False)],
)
def test_titles_are_found_in_their_natural_order(spoken: str, found: bool) -> None:
    names = TitleNames(["Godfather, The", "Glass Harbour, The", "Heat"])
    assert bool(list(names.within(spoken.split()))) is found

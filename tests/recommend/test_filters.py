"""Filters as a person writes them, and what they let through."""

import numpy as np
import pytest

from client.recommend.attributes import Attributes
from client.recommend.filters import allowed_items, parse_filter
from client.recommend.query import Filter
from shared.catalogue import Catalogue
from shared.errors import ConfigError

SHOP = Catalogue(
    ("a", "b", "c", "d"),
    ("Red Bicycle", "Blue bicycle", "Tent", "Rope"),
    {
        "kind": ("sport|wheels", "Sport, Wheels", "camping", ""),
        "price": ("120.5", "99", "free", ""),
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind=Sport", Filter("kind", ("sport",))),
        ("kind = Sport | Camping ", Filter("kind", ("sport", "camping"))),
        ("price>=99", Filter("price", least=99.0)),
        ("price<= 1e2", Filter("price", most=100.0)),
        ("release year>=1990", Filter("release year", least=1990.0)),
        ("title=a=b", Filter("title", ("a=b",))),
    ],
)
def test_a_filter_is_read(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", "kind", "=x", "price>=cheap", "price>=nan", "price>3", "k="])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        parse_filter(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["kind=SPORT"], "ab"),
        (["kind=wheels|camping"], "abc"),
        (["kind=sport|wheels", "price<=100"], "b"),
        (["kind=spo"], ""),
        (["price>=99"], "ab"),
        (["price>=0"], "ab"),
        (["title=bicycle"], "ab"),
        (["title=blue"], "b"),
        (["kind=sport, wheels"], "b"),
    ],
)
def test_what_a_filter_lets_through(texts: list[str], expected: str) -> None:
    mask = allowed_items([parse_filter(text) for text in texts], SHOP, Attributes(SHOP))
    assert mask is not None
    assert "".join(np.array(SHOP.item_ids)[mask]) == expected


def test_without_filters_nothing_is_masked() -> None:
    assert allowed_items([], SHOP, Attributes(SHOP)) is None

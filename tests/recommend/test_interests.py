"""Themes with weights, and how they drift."""

import numpy as np
import pytest

from client.recommend.attributes import Attributes
from client.recommend.interests import interests_of
from client.recommend.recommender import Recommender
from shared.catalogue import Catalogue

# Ten dramas, ten comedies, of which one each is also a war film.
BOTH = Catalogue(
    tuple(str(i) for i in range(20)),
    tuple(f"Title {i}" for i in range(20)),
    {
        "genres": tuple(
            ("Drama" if i < 10 else "Comedy") + (", War" if i % 10 == 0 else "") for i in range(20)
        ),
        "year": tuple("1999" for _ in range(20)),
    },
)
ATTRIBUTES = Attributes(BOTH)


def found(row: list[int]) -> dict[str, tuple[float, float, tuple[float, ...]]]:
    interests = interests_of(np.array(row), np.arange(float(len(row))), ATTRIBUTES, 20)
    return {theme.name: (theme.weight, theme.lift, theme.shares) for theme in interests.themes}


def test_a_theme_is_what_the_history_has_more_often_than_the_catalogue() -> None:
    themes = found([1, 2, 3, 4, 11])
    assert set(themes) == {"Drama"}
    decayed = 0.97 ** np.arange(5)[::-1]
    assert themes["Drama"][0] == pytest.approx(decayed[:4].sum() / decayed.sum())
    assert themes["Drama"][1] == pytest.approx(2 * themes["Drama"][0])


def test_rare_terms_count_by_how_far_they_stand_out() -> None:
    themes = found([0, 10, 1, 11])
    assert next(iter(themes)) == "War"
    assert themes["War"][1] > 4


def test_numbers_and_terms_of_a_single_item_are_no_themes() -> None:
    single = Catalogue(("a", "b"), ("A", "B"), {"kind": ("odd", "even"), "year": ("1", "1")})
    assert interests_of(np.array([0]), np.zeros(1), Attributes(single), 2).themes == ()


def test_parts_of_prose_are_no_themes() -> None:
    prose = tuple(f"In {place}, a long tale of two people and a very old house" for place in "xxyy")
    told = Catalogue(("a", "b", "c", "d"), ("A", "B", "C", "D"), {"summary": prose})
    assert interests_of(np.array([0]), np.zeros(1), Attributes(told), 4).themes == ()


def test_drift_shows_in_the_periods_oldest_first() -> None:
    row = [*range(1, 10), 1, *range(11, 20), 11]
    interests = interests_of(np.array(row), np.arange(20.0), ATTRIBUTES, 20)
    assert interests.periods == ((0.0, 4.0), (5.0, 9.0), (10.0, 14.0), (15.0, 19.0))
    shares = {theme.name: theme.shares for theme in interests.themes}
    assert shares["Comedy"] == (0.0, 0.0, 1.0, 1.0)


def test_the_newest_interactions_weigh_most() -> None:
    assert found([*range(11, 18), *range(1, 8)])["Drama"][0] > 0.5


def test_no_history_has_no_interests(recommender: Recommender) -> None:
    assert recommender.interests("u6").themes == ()
    assert recommender.interests([]).periods == ()


def test_a_users_interests_come_from_their_own_history(recommender: Recommender) -> None:
    assert recommender.interests("u0").themes[0].name in {"Horror", "Mystery"}
    assert recommender.interests("u2").themes[0].name == "Science Fiction"

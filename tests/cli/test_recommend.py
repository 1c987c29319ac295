"""``tacit recommend``: lists of unseen items, moved by a stated need."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.store import read_store

Tacit = Callable[..., Any]

LINE = re.compile(r"^ *(\d+)  (.+?)  +(.*?) *(-?\d+\.\d\d) *$", re.MULTILINE)


def listed(printed: str) -> list[tuple[int, str, float]]:
    """Place, title and score of every line of a list."""
    return [(int(n), title, float(score)) for n, title, _, score in LINE.findall(printed)]


@pytest.fixture
def someone(film_run: Path) -> tuple[str, str, set[str]]:
    """An organisation, one of its users, and the titles that this user has had."""
    catalogue, histories = read_store(film_run / "organisations" / "0001" / "histories.duckdb")
    seen = {catalogue.titles[item] for item in histories.row(0)}
    return "org-1", histories.user_ids[0], seen


def test_a_list_has_the_asked_length_and_unseen_titles_only(
    tacit: Tacit, film_run: Path, someone: tuple[str, str, set[str]]
) -> None:
    org, user, seen = someone
    done = tacit("recommend", "--run", str(film_run), "--org", org, "--user", user, "-k", "5")
    assert done.status == 0
    found = listed(done.out)
    assert [place for place, _, _ in found] == [1, 2, 3, 4, 5]
    assert not {title for _, title, _ in found} & seen
    scores = [score for _, _, score in found]
    assert scores == sorted(scores, reverse=True)


def test_the_newest_items_stand_above_the_list(
    tacit: Tacit, film_run: Path, someone: tuple[str, str, set[str]]
) -> None:
    org, user, seen = someone
    done = tacit("recommend", "--run", str(film_run), "--org", org, "--user", user)
    head = done.out.split("lately: ")[1].splitlines()[0]
    assert {title.strip() for title in head.split(";")} <= seen


def test_who_asks_for_more_than_there_is_gets_all_unseen_items(
    tacit: Tacit, film_run: Path, someone: tuple[str, str, set[str]]
) -> None:
    org, user, seen = someone
    done = tacit("recommend", "--run", str(film_run), "--org", org, "--user", user, "-k", "999")
    assert len(listed(done.out)) == 24 - len(seen)


@pytest.mark.parametrize(
    ("need", "genre"),
    [
        ("a frightening film with ghosts and demons", "Horror"),
        ("robots and spaceships in the future", "Science Fiction"),
        ("a love story with a wedding", "Romance"),
    ],
)
def test_a_stated_need_brings_matching_items_up(
    tacit: Tacit,
    film_run: Path,
    someone: tuple[str, str, set[str]],
    need: str,
    genre: str,
) -> None:
    org, user, _ = someone
    options = ["recommend", "--run", str(film_run), "--org", org, "--user", user, "-k", "24"]
    plain = tacit(*options)
    wanted = tacit(*options, "--need", need)
    assert f"looking for: {need}" in wanted.out
    # By a place or more on the mean, or they all stand first.
    first = (matching(wanted.out, genre) + 1) / 2
    assert mean_place(wanted.out, genre) <= max(first, mean_place(plain.out, genre) - 1.0)
    assert mean_place(wanted.out, genre) < mean_place(plain.out, genre)


def test_an_organisation_that_is_not_there_is_told_with_those_that_are(
    tacit: Tacit, film_run: Path
) -> None:
    done = tacit("recommend", "--run", str(film_run), "--org", "org-9", "--user", "u1")
    assert done.status == 2
    assert "has no organisation 'org-9'; it has org-1, org-2" in done.err


def test_a_user_who_is_not_there_is_told_with_some_who_are(
    tacit: Tacit, film_run: Path, someone: tuple[str, str, set[str]]
) -> None:
    done = tacit("recommend", "--run", str(film_run), "--org", "org-1", "--user", "nobody")
    assert done.status == 2
    assert "org-1 has no user 'nobody'" in done.err
    assert someone[1] in done.err


def test_users_of_another_organisation_are_not_served(tacit: Tacit, film_run: Path) -> None:
    _, other = read_store(film_run / "organisations" / "0002" / "histories.duckdb")
    user = other.user_ids[0]
    done = tacit("recommend", "--run", str(film_run), "--org", "org-1", "--user", user)
    assert done.status == 2


def test_a_folder_that_is_no_run_is_told(tacit: Tacit, tmp_path: Path) -> None:
    done = tacit("recommend", "--run", str(tmp_path), "--org", "org-1", "--user", "u1")
    assert done.status == 2
    assert "holds no config.toml" in done.err


def test_a_run_that_has_delivered_nothing_is_told(
    tacit: Tacit, film_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_bytes((film_run / "config.toml").read_bytes())
    folder = tmp_path / "organisations" / "0001"
    folder.mkdir(parents=True)
    for name in ("organisation.json", "policy.toml"):
        source = film_run / "organisations" / "0001" / name
        (folder / name).write_bytes(source.read_bytes())
    done = tacit("recommend", "--run", str(tmp_path), "--org", "org-1", "--user", "u1")
    assert done.status == 2
    assert "has delivered nothing yet" in done.err


def matching(printed: str, genre: str) -> int:
    """How many lines of a list are of a genre."""
    return len(places(printed, genre))


def mean_place(printed: str, genre: str) -> float:
    found = places(printed, genre)
    assert found
    return sum(found) / len(found)


def places(printed: str, genre: str) -> list[int]:
    return [
        int(number)
        for number, _, details, _ in LINE.findall(printed)
        if f"{genre}." in details + "."
    ]

"""``tacit client recommend``: from an organisation's folder, with what a federation delivered."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet

from client.data.store import read_store

Tacit = Callable[..., Any]

LINE = re.compile(r"^ *(\d+)  (.+?)  +(.*?) *(-?\d+\.\d\d) *$", re.MULTILINE)


def test_a_list_has_the_asked_length_and_nothing_that_the_user_has_had(
    tacit: Tacit, served: Any
) -> None:
    catalogue, histories = read_store(served.org / "histories.duckdb")
    had = {catalogue.titles[item] for item in histories.row(histories.user_ids.index("u3"))}
    done = tacit("client", "recommend", str(served.org), "--user", "u3", "-k", "5")
    assert done.status == 0
    titles = [title for _, title, _, _ in LINE.findall(done.out)]
    assert len(titles) == 5
    assert not had & set(titles)
    assert "u3 of House, lately:" in done.out


def test_a_need_is_repeated_and_moves_the_scores(tacit: Tacit, served: Any) -> None:
    plain = tacit("client", "recommend", str(served.org), "--user", "u3")
    wanted = tacit("client", "recommend", str(served.org), "--user", "u3", "--need", "a blue thing")
    assert "looking for: a blue thing" in wanted.out
    assert LINE.findall(plain.out) != LINE.findall(wanted.out)


def test_settings_of_the_delivery_decide_how_scores_are_fused(tacit: Tacit, served: Any) -> None:
    before = LINE.findall(tacit("client", "recommend", str(served.org), "--user", "u3").out)
    path = served.org / "delivered" / "settings.json"
    text = path.read_text()
    assert '"weight":0.7' in text
    path.write_text(text.replace('"weight":0.7', '"weight":0.0'))
    after = LINE.findall(tacit("client", "recommend", str(served.org), "--user", "u3").out)
    assert before != after


def test_a_user_who_is_not_there_is_told(tacit: Tacit, served: Any) -> None:
    done = tacit("client", "recommend", str(served.org), "--user", "nobody")
    assert done.status == 2
    assert "House has no user 'nobody'" in done.err


def test_an_organisation_without_a_delivery_is_told(tacit: Tacit, made: Any) -> None:
    done = tacit("client", "recommend", str(made.org), "--user", "u3")
    assert done.status == 2
    assert "the federation has delivered nothing yet" in done.err


def test_lists_for_all_are_written_to_one_file(tacit: Tacit, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    done = tacit("client", "recommend-all", str(served.org), "--out", str(out), "-k", "3")
    assert done.status == 0
    _, histories = read_store(served.org / "histories.duckdb")
    table = pyarrow.parquet.read_table(out)
    assert set(table["user_id"].to_pylist()) == set(histories.user_ids)
    assert set(table["rank"].to_pylist()) == {1, 2, 3}
    assert f"for {len(histories)} users are in {out}" in done.out


def test_reasons_stand_beside_the_list(tacit: Tacit, served: Any) -> None:
    done = tacit("client", "recommend", str(served.org), "--user", "u3", "-k", "3", "--reasons")
    assert done.status == 0
    assert "Because of (score lost without it)" in done.out


def test_own_pairs_count_where_the_organisation_says_so_and_the_list_says_it_too(
    tacit: Tacit, served: Any, tmp_path: Path
) -> None:
    ask = ("client", "recommend", str(served.org), "--user", "u3")
    before = tacit(*ask)
    assert "outside the federation's guarantee" not in before.out
    path = served.org / "agent.toml"
    text = path.read_text()
    assert "own_cooccurrence = 0.0" in text
    path.write_text(text.replace("own_cooccurrence = 0.0", "own_cooccurrence = 5.0"))
    after = tacit(*ask)
    assert "outside the federation's guarantee" in " ".join(after.out.split())
    assert LINE.findall(before.out) != LINE.findall(after.out)
    lists = str(tmp_path / "lists.parquet")
    for command, *more in (("recommend-all", "--out", lists), ("describe", "--user", "u3")):
        done = tacit("client", command, str(served.org), *more)
        assert "outside the federation's guarantee" in " ".join(done.err.split())


def test_a_filter_that_makes_no_sense_is_refused(tacit: Tacit, served: Any) -> None:
    done = tacit("client", "recommend", str(served.org), "--user", "u3", "--filter", "weight=red")
    assert done.status == 2
    assert "the catalogue has title" in done.err

"""What the federation never saw is held back for real, and ranked by who can."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.ingest import Dataset, load_dataset
from shared.config import Config
from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.sections import to_toml
from simulations.bench.accuracy import AccuracyRow
from simulations.bench.cli import bench_app
from simulations.bench.reach import COMPARED, LABELS, LEAST_HISTORY, SLICES, Held, hold_back
from simulations.bench.utility_plots import plot_epsilon

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def dataset(make_config: MakeConfig) -> Dataset:
    return load_dataset(make_config().data)


@pytest.fixture(scope="module")
def held(dataset: Dataset) -> Held:
    return hold_back(dataset)


def test_the_federation_meets_no_new_item_and_no_joining_user(held: Held) -> None:
    assert 0 < held.new.sum() < len(held.new)
    seen, new = set(held.seen.catalogue.item_ids), set(held.own.item_ids)
    assert not seen & new
    assert seen | new == set(held.whole.catalogue.item_ids)
    assert len(held.seen.catalogue) == len(seen)
    assert held.seen.histories.items.max() < len(seen)
    joining = {held.joined.history.user_ids[u] for u in range(len(held.joined.target))}
    assert not joining & set(held.seen.histories.user_ids)
    assert set(held.whole.histories.user_ids) == joining | set(held.added.history.user_ids)


def test_items_of_one_key_are_all_new_or_none_is(dataset: Dataset) -> None:
    keys = tuple(str(place // 3) for place in range(len(dataset.catalogue)))
    held = hold_back(replace(dataset, catalogue=replace(dataset.catalogue, keys=keys)))
    assert 0 < held.new.sum() < len(held.new)
    assert not set(held.seen.catalogue.keys or ()) & set(held.own.keys or ())


def test_what_is_seen_keeps_its_items_and_their_order(held: Held) -> None:
    whole = held.whole
    place = {user: row for row, user in enumerate(whole.histories.user_ids)}
    for row, user in enumerate(held.seen.histories.user_ids):
        had = [whole.catalogue.item_ids[i] for i in whole.histories.row(place[user])]
        expected = [item for item in had if item in held.seen.catalogue.item_ids]
        found = [held.seen.catalogue.item_ids[i] for i in held.seen.histories.row(row)]
        assert found == expected


def test_a_target_is_new_and_comes_right_after_what_is_read(held: Held) -> None:
    whole = held.whole
    place = {user: row for row, user in enumerate(whole.histories.user_ids)}
    ranked = np.flatnonzero(held.added.target >= 0)
    assert len(ranked) > 10
    for row in ranked:
        full = whole.histories.row(place[held.added.history.user_ids[row]])
        read = held.added.history.row(int(row))
        assert len(read) >= LEAST_HISTORY
        assert full[: len(read)].tolist() == read.tolist()
        assert full[len(read)] == held.added.target[row]
        assert held.new[held.added.target[row]]
        assert not held.new[full[len(read) + 1 :]].any()
    for row in np.flatnonzero(held.joined.target >= 0):
        full = whole.histories.row(place[held.joined.history.user_ids[row]])
        own = [whole.catalogue.item_ids[i] for i in full if held.new[i]]
        read = [held.own.item_ids[i] for i in held.joined.history.row(int(row))]
        assert [*read, held.own.item_ids[held.joined.target[row]]] == own


def test_data_without_anybody_to_rank_is_refused(dataset: Dataset) -> None:
    short = dataset.histories.truncated(np.full(len(dataset.histories), 2))
    with pytest.raises(DataError, match="no user is left to rank for added items"):
        hold_back(replace(dataset, histories=short))


def test_ratings_stay_with_their_interactions(dataset: Dataset) -> None:
    histories = dataset.histories
    numbered = PrivateHistories(
        histories.user_ids,
        histories.offsets,
        histories.items,
        np.arange(len(histories.items), dtype=np.float64),
        histories.items.astype(np.float32),
    )
    held = hold_back(replace(dataset, histories=numbered))
    seen = held.seen.histories
    kept = np.flatnonzero(~held.new)
    assert seen.ratings is not None
    assert seen.ratings.tolist() == kept[seen.items].tolist()
    assert numbered.items[seen.times.astype(np.int64)].tolist() == kept[seen.items].tolist()


@pytest.mark.slow
def test_statistics_know_nothing_of_a_house_that_joins(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(to_toml(make_config()))
    options = ["--config", str(tmp_path / "config.toml"), "--json", str(tmp_path / "rows.json")]
    arguments = ["reach", *options, "--setting", "shared:8", "--seeds", "2"]
    result = CliRunner().invoke(bench_app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "rows.json").read_text())
    rows = {(row["slice"], row["method"]): row for row in found["rows"]}
    ranked = set(LABELS) - {"need", "unasked"}
    said = {"statistics", "unasked", "need", "texts", "federation"}
    assert set(rows) == {
        (slice_, method)
        for slice_, all_ in {"added": ranked, "joined": ranked, "asked": said}.items()
        for method in all_
    }
    assert set(SLICES) == {"added", "joined", "asked"}
    # All items tie at the floor: the target's mean rank is in the middle, beyond the first ten.
    assert rows["joined", "statistics"]["items"] > 20 or rows["joined", "statistics"]["hr10"] == 1.0
    compared = [(row["slice"], row["method"], row["less"]) for row in found["comparisons"]]
    assert compared == [
        (slice_, method, less)
        for slice_ in SLICES
        for method, less in COMPARED
        if {(slice_, method), (slice_, less)} <= rows.keys()
    ]
    assert ("asked", "federation", "unasked") in compared
    for row in found["comparisons"]:
        both = [rows[row["slice"], row[name]]["ndcg10"] for name in ("method", "less")]
        assert row["mean"] == pytest.approx(both[0] - both[1])


@pytest.mark.slow
def test_sizes_are_ranked_by_every_part_and_drawn(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(data={"synthetic_items": 60}, training={"rounds": 1})
    (tmp_path / "config.toml").write_text(to_toml(config))
    options = ["--config", str(tmp_path / "config.toml"), "--json", str(tmp_path / "rows.json")]
    arguments = ["size", *options, "--users", "100", "--users", "150"]
    plot = tmp_path / "pictures" / "size.svg"
    result = CliRunner().invoke(bench_app, [*arguments, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    methods = ["Popularity", "Each organisation by itself", "Statistics alone"]
    methods += ["Statistics and texts", "Adapter alone", "Federation"]
    assert [(row["users"], row["method"]) for row in rows] == [
        (users, method) for users in (100, 150) for method in [*methods, "Federation and own pairs"]
    ]
    assert "svg" in plot.read_text()[:400]


def test_a_picture_over_epsilon_is_drawn(tmp_path: Path) -> None:
    def row(method: str, noise: str, epsilon: float | None, ndcg: float) -> AccuracyRow:
        return AccuracyRow(
            method, "whole", epsilon, noise, "plain", "x", "leave-one-out", ndcg, ndcg,
            0.01, 0.01, 0.0, 0.001, None, 1,
        )  # fmt: skip

    rows = [row("federation", "none", None, 0.1), row("sasrec", "none", None, 0.09)]
    for noise in ("own", "shared"):
        for epsilon in (8.0, 1.0):
            rows += [row(m, noise, epsilon, 0.05) for m in ("statistics", "adapter", "federation")]
    plot_epsilon(tmp_path / "utility.svg", rows)
    drawn = (tmp_path / "utility.svg").read_text()
    assert drawn.count("<use") > 10

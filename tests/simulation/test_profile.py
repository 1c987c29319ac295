"""The profile of a federation: its parts add up, and every stage of a round is in it."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from shared.config import Config
from shared.sections import to_toml
from simulations.bench.cli import bench_app
from simulations.bench.profile import FIRST, ROUND, ProfileRow
from simulations.timing import LABELS, OTHER

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def rows(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[ProfileRow]]:
    folder = tmp_path_factory.mktemp("profile")
    (folder / "config.toml").write_text(to_toml(make_config()))
    options = ["--organisations", "3", "--rounds", "2", "--json", str(folder / "rows.json")]
    command = ["profile", "--config", str(folder / "config.toml"), *options]
    result = CliRunner().invoke(bench_app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert LABELS["forward"] in result.output
    found = [ProfileRow(**row) for row in json.loads((folder / "rows.json").read_text())["rows"]]
    return {part: [row for row in found if row.part == part] for part in (FIRST, ROUND)}


def test_the_shares_of_each_part_add_up_to_all_of_it(rows: dict[str, list[ProfileRow]]) -> None:
    for part in rows.values():
        assert sum(row.share for row in part) == pytest.approx(1.0)
        whole = sum(row.seconds for row in part)
        assert [row.share for row in part] == pytest.approx([r.seconds / whole for r in part])


def test_each_organisation_trains_once_in_a_round(rows: dict[str, list[ProfileRow]]) -> None:
    calls = {row.stage: row.calls for row in rows[ROUND]}
    assert calls[LABELS["noise"]] == 3
    assert calls[LABELS["aggregate"]] == 1
    assert calls[LABELS[OTHER]] is None


def test_what_comes_before_the_rounds_is_there_once(rows: dict[str, list[ProfileRow]]) -> None:
    names = [row.stage for row in rows[FIRST]]
    assert names[:2] == ["Reading data", "Loading the model"]
    assert names[-1] == "Judging the plan, statistics and their delivery"
    assert len(set(names)) == len(names) == 8

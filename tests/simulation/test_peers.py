"""The same federation by tacit and by its peers: that it is the same, and that it is measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from shared.config import Config
from shared.errors import ConfigError, RunError
from shared.sections import to_toml
from simulations.bench.cli import bench_app
from simulations.bench.peers.measure import (
    PEERS_PYTHON,
    PFL,
    PFL_WORKERS,
    agreement,
    available,
    comparable,
)
from simulations.bench.peers.processes import watched

MakeConfig = Callable[..., Config]

USERS = 20
# Our clipping stays this far below the norm, so that rounding cannot pass it.
OURS_CLIPS_SHORTER = 1e-5


@pytest.fixture
def clipped(make_config: MakeConfig) -> Config:
    """A clipping norm that every user's gradient is longer than."""
    return make_config(privacy={"clipping_norm": 0.001})


def say_nothing(text: str) -> None:
    """Nobody watches."""


@pytest.mark.slow
def test_a_usual_flower_app_trains_the_adapter_that_tacit_trains(clipped: Config) -> None:
    pytest.importorskip("ray", reason="the Flower app needs tacit[ray]")
    ours, flower = agreement(clipped, ["flower"], 2, USERS, say_nothing)
    assert (ours.way, ours.difference) == ("ours", 0.0)
    assert flower.difference < 10 * OURS_CLIPS_SHORTER


@pytest.mark.slow
@pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="needs pfl-research (make bench-peers)")
def test_pfl_research_trains_the_adapter_that_tacit_trains(clipped: Config) -> None:
    _, alone, workers = agreement(clipped, [PFL, PFL_WORKERS], 2, USERS, say_nothing)
    assert max(alone.difference, workers.difference) < 10 * OURS_CLIPS_SHORTER


@pytest.mark.slow
def test_rounds_of_every_way_are_timed_in_processes_of_their_own(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the Flower app needs tacit[ray]")
    (tmp_path / "config.toml").write_text(to_toml(make_config()))
    ways = ["--way", "flower-cached", "--way", "ours"]
    sizes = ["--rounds", "2", "--users", str(USERS)]
    files = ["--config", str(tmp_path / "config.toml"), "--json", str(tmp_path / "rows.json")]
    result = CliRunner().invoke(bench_app, ["peers", *ways, *sizes, *files], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    flower, ours = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (flower["way"], ours["way"]) == ("flower-cached", "ours")
    for row in (flower, ours):
        assert (row["organisations"], row["users"], row["rounds"]) == (2, USERS, 2)
        assert 0.0 < row["least_s"] <= row["round_s"] <= row["greatest_s"] < row["first_round_s"]
        assert row["times_ours"] == pytest.approx(row["round_s"] / ours["round_s"])
    # Ray's servers and actors are processes of their own.
    assert flower["peak_mib"] > ours["peak_mib"] > 100.0


def test_without_its_environment_pfl_research_is_left_out(tmp_path: Path) -> None:
    found, left_out = available(["ours", PFL], tmp_path / "python")
    assert found == ["ours"]
    assert "run make bench-peers" in left_out


def test_with_its_environment_pfl_research_is_run(tmp_path: Path) -> None:
    (tmp_path / "python").touch()
    assert available(["ours", PFL], tmp_path / "python") == (["ours", PFL], "")


def test_pfl_research_alone_without_its_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run make bench-peers"):
        available([PFL], tmp_path / "python")


def test_an_unknown_way_is_refused() -> None:
    result = CliRunner().invoke(bench_app, ["peers", "--way", "theirs"])
    assert isinstance(result.exception, ConfigError)
    assert "--way theirs: expected one of ours" in str(result.exception)


def test_the_ways_are_compared_on_adapter_rounds_alone(make_config: MakeConfig) -> None:
    config = comparable(make_config(privacy={"clipping": "automatic"}), 3)
    privacy = config.privacy
    assert (privacy.popularity_share, privacy.cooccurrence_share) == (0.0, 0.0)
    assert (privacy.clipping, config.server.optimizer) == ("flat", "average")
    assert (config.training.rounds, config.training.sampling_rate) == (3, 1.0)


PARENT = """
import subprocess, sys, time
held = b"x" * (150 * 2**20)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(3)
"""
CHILD = """
import time
held = b"x" * (150 * 2**20)
time.sleep(600)
"""


def test_memory_is_that_of_a_process_and_its_descendants(tmp_path: Path) -> None:
    ended = watched([sys.executable, "-c", PARENT, CHILD], tmp_path / "log", {}, "two")
    assert 300.0 < ended.peak_mib < 400.0


def test_what_a_process_leaves_behind_is_ended(tmp_path: Path) -> None:
    watched([sys.executable, "-c", PARENT, CHILD], tmp_path / "log", {}, "two")
    assert not psutil.pid_exists(int((tmp_path / "log").read_text()))


def test_processor_seconds_of_descendants_are_counted(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 2: pass"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    ended = watched([sys.executable, "-c", parent], tmp_path / "log", {}, "busy")
    used = ended.usage[:, 1]
    assert (used[1:] >= used[:-1]).all()
    assert 0.5 < used[-1] < 4.0


def test_a_way_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such base')"]
    with pytest.raises(RunError, match="theirs: ended with 1: no such base"):
        watched(command, tmp_path / "log", {}, "theirs")

"""What a person can mend is one sentence on stderr and exit status 2; a traceback is asked for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from simulations.cli import main

Tacit = Callable[..., Any]


def check_sentence(done: Any, words: str) -> None:
    assert done.status == 2
    assert words in done.err
    assert done.err.startswith("Error: ")
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err


def test_a_bad_option_is_a_sentence(tacit: Tacit) -> None:
    check_sentence(tacit("simulate", "--set", "run.sed=1"), "did you mean run.seed?")


def test_data_that_is_not_there_is_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = tacit("simulate", "--data", str(tmp_path / "nowhere"), "--out", out)
    check_sentence(done, "no such file or folder")


def test_bad_data_names_file_row_and_column(tacit: Tacit, tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user,item,time\nu1,i1,1\nu1,i1,yesterday\n")
    (tmp_path / "items.csv").write_text("item,title\ni1,One\n")
    done = tacit("simulate", "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    check_sentence(done, "interactions.csv")
    assert "yesterday" in done.err
    assert "time" in done.err


def test_a_configuration_file_that_is_not_there_is_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    done = tacit("simulate", "--config", str(tmp_path / "c.toml"))
    check_sentence(done, "no such configuration file")


@pytest.mark.parametrize("content", [b"[run\n", b"\xff\xfe\x00"], ids=["not-toml", "not-text"])
def test_a_configuration_file_that_cannot_be_read_is_a_sentence(
    tacit: Tacit, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    check_sentence(tacit("simulate", "--config", str(tmp_path / "c.toml")), "not TOML")


def test_a_folder_in_place_of_a_configuration_file_is_a_sentence(
    tacit: Tacit, tmp_path: Path
) -> None:
    check_sentence(tacit("simulate", "--config", str(tmp_path)), str(tmp_path))


def test_a_value_where_a_section_belongs_is_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('data = "movielens-100k"\n')
    done = tacit("simulate", "--config", str(tmp_path / "c.toml"), "--data", "synthetic")
    check_sentence(done, "data")


def test_resume_takes_no_other_option(tacit: Tacit, tmp_path: Path) -> None:
    done = tacit("simulate", "--resume", str(tmp_path), "--rounds", "3")
    check_sentence(done, "--resume takes the run's own configuration")


def test_resume_of_what_is_no_run_is_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    check_sentence(tacit("simulate", "--resume", str(tmp_path / "nowhere")), "config.toml")


def test_a_base_model_that_is_no_base_model_is_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    options = ["--data", "synthetic", "--set", "data.synthetic_users=10", "--orgs", "2"]
    small = [*options, "--set", "data.synthetic_items=50", "--out", str(tmp_path / "out")]
    done = tacit("simulate", *small, "--base", str(tmp_path / "base"))
    assert done.status == 2
    assert "expected config.json and *.safetensors" in done.err
    assert "Traceback" not in done.err


def test_synthetic_sizes_that_cannot_be_are_a_sentence(tacit: Tacit, tmp_path: Path) -> None:
    done = tacit("data", "synth", "--out", str(tmp_path / "out"), "--items", "3")
    assert done.status == 2
    assert "3" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("simulate", "--nonsense"), ("nonsense",), ("recommend",), ("simulate", "--rounds", "many")],
)
def test_a_wrong_command_line_exits_with_2_and_no_traceback(
    tacit: Tacit, arguments: tuple[str, ...]
) -> None:
    done = tacit(*arguments)
    assert done.status == 2
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tacit", "--debug", "simulate", "--set", "run.sed=1"])
    with pytest.raises(ConfigError, match=r"run\.sed"):
        main()


def installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as installed beside this interpreter."""
    command = Path(sys.executable).with_name("tacit")
    if not command.exists():
        pytest.skip("needs tacit installed (make env), so that there is a command to run")
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [command, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_installed_command_exits_with_2_and_keeps_stdout_clean() -> None:
    done = installed("simulate", "--set", "run.sed=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_the_installed_command_shows_the_traceback_with_debug() -> None:
    done = installed("--debug", "simulate", "--set", "run.sed=1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_help_comes_without_loading_torch() -> None:
    code = (
        "import sys; from simulations.cli import app\n"
        "try: app(['simulate', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")

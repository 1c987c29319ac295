"""What an operator sees of a run's plan: what the server will see of the organisations."""

import io

from rich.console import Console

from server.ops.folder import Folder
from server.ops.status import Run, print_status, status_of
from shared.config import load_config
from shared.files import write_json
from shared.plan import make_plan


def planned(folder: Folder, name: str, *options: str) -> None:
    """A run that has its plan and nothing more, of eight organisations."""
    config = load_config(None, ["training.rounds=0", *options])
    plan = make_plan(config, 943, 8)
    begun(folder, name)
    write_json(folder.run(name) / "plan.json", {"sha256": plan.sha256, "plan": plan.to_json()})


def begun(folder: Folder, name: str) -> None:
    """A run that has no plan yet."""
    folder.run(name).mkdir(parents=True)
    (folder.run(name) / "config.toml").write_text("")


def seen(folder: Folder) -> tuple[str, dict[str, Run]]:
    """What stands on the screen, and the runs by name."""
    status, screen = status_of(folder), io.StringIO()
    print_status(Console(file=screen, width=200), status, "FED")
    return screen.getvalue(), {run.name: run for run in status.runs}


def test_a_run_with_secure_sums_says_how_many_are_in_them(folder: Folder) -> None:
    planned(folder, "masked")
    screen, runs = seen(folder)
    sums = "sees only sums of at least 7 organisations, with up to 1 of them on its side"
    assert f"epsilon 8 at delta 0.00053; the server {sums}" in screen
    run = runs["masked"]
    assert (run.aggregation, run.least_participants, run.colluders) == ("secure", 7, 1)


def test_a_run_with_plain_sums_says_what_the_server_sees(folder: Folder) -> None:
    planned(folder, "open", "aggregation.mode=plain")
    screen, runs = seen(folder)
    assert "epsilon 8 at delta 0.00053; the server sees what each organisation sends" in screen
    assert runs["open"].aggregation == "plain"


def test_a_run_without_a_plan_says_nothing_of_its_sums(folder: Folder) -> None:
    begun(folder, "new")
    screen, runs = seen(folder)
    assert "Run new: never submitted" in screen
    assert "server sees" not in screen
    assert (runs["new"].aggregation, runs["new"].sums) == ("", "")

"""A disk that is full where the ledger lies: nothing is released that is not on record."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab.federation import Federation
from lab.house import House

pytestmark = pytest.mark.slow

SIZE = "24m"
PAGE = 4096


@contextmanager
def small_disk(house: House) -> Iterator[None]:
    """ORG on a file system of its own, with the agent started anew on it; moved back at the end."""
    aside = house.folder / "org-aside"
    house.agent_process.terminate()
    shutil.copytree(house.org, aside)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(house.org)], check=True
    )
    try:
        shutil.copytree(aside, house.org, dirs_exist_ok=True)
        house.start_agent()
        house.agent_ready()
        yield
        house.agent_process.terminate()
        shutil.rmtree(aside)
        shutil.copytree(house.org, aside)
    finally:
        if house.agent_process.running:
            house.agent_process.kill()
        subprocess.run(["umount", str(house.org)], check=True)
    shutil.copytree(aside, house.org, dirs_exist_ok=True)
    shutil.rmtree(aside)


def fill(folder: Path) -> Path:
    """A file that takes every page that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * PAGE)
        except OSError:
            return path


def test_a_full_disk_at_the_ledger_stops_releases_until_there_is_space(
    federation: Federation,
) -> None:
    tools = federation.houses["tools"]
    with small_disk(tools):
        run = federation.run("training.rounds=4", "server.round_timeout_s=60.0")
        run.wait_for_round(1)
        filler = fill(tools.org)
        before = tools.entries()
        run.wait_for_round(3)
        during = tools.entries()[len(before) :]
        filler.unlink()
        assert run.finish() == 0, run.said()
        replies = run.rounds()
        federation.sound(run)
        spent = [intent.round for intent in tools.intents(run.name)]
    assert replies[1] == 3
    assert replies[3] == 2
    assert replies[4] == 3
    assert not [entry for request, entry in during if request.startswith(f"{run.name}/3/")]
    assert 3 not in spent
    assert any(each["round"] == 3 for each in run.events("refused"))
    said = tools.agent_process.text()
    # By the file with the servers' anchors or by SQLite, whichever needs space first.
    assert "No space left on device" in said or "database or disk is full" in said

"""An operator's day with a real SuperLink and real SuperNodes: register, run, follow, resume."""

import json
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.ops.flower import nodes
from server.ops.folder import Folder
from tests.server_ops.operating import (
    Process,
    Spawn,
    ended,
    free_port,
    make_folder,
    make_node_key,
    start_node,
    start_superlink,
    tacit_server,
    until,
)
from tests.server_ops.standin import STANDIN_COMMANDS

pytestmark = pytest.mark.slow

NAMES = ("cinema", "library")


@dataclass
class Federation:
    """A SuperLink with two organisations' SuperNodes online, whose agents do not answer."""

    folder: Folder
    spawn: Spawn
    port: int
    superlink: Process
    keys: dict[str, Path]
    nodes: dict[str, Process]

    def online(self) -> bool:
        """Whether all SuperNodes are; one that gave up its link is started again."""
        for name, node in self.nodes.items():
            if node.process.poll() is not None:
                self.nodes[name] = start_node(self.folder, self.spawn, self.keys[name], self.port)
        # Flower lists those that were taken off as well.
        found = {node.name: node.status for node in nodes(self.folder)}
        return all(found[name] == "online" for name in NAMES)

    def status(self) -> dict[str, Any]:
        """As JSON."""
        return dict(json.loads(ended("status", str(self.folder.root), "--json").stdout))

    def state(self, name: str) -> str:
        """Of a run, in Flower's words."""
        (found,) = [run for run in self.status()["runs"] if run["name"] == name]
        return str(found["state"])

    def standin(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``tacit server run`` with the stand-in for the apps."""
        return ended("run", str(self.folder.root), *options, code=STANDIN_COMMANDS)

    def following(self, *options: str) -> Process:
        """The same, left to run."""
        command = tacit_server("run", str(self.folder.root), *options, code=STANDIN_COMMANDS)
        return self.spawn(command)

    def settle(self) -> None:
        """Stop what goes on."""
        for run in self.status()["runs"]:
            if not run["state"].startswith("finished"):
                flwr = str(Path(tacit_server()[0]).parent / "flwr")
                environment = os.environ | {"FLWR_HOME": str(self.folder.flower)}
                command = [flwr, "stop", run["flower_run"], "tacit"]
                subprocess.run(command, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, module_spawn: Spawn) -> Federation:
    root = tmp_path_factory.mktemp("federation")
    folder = make_folder(root / "FED")
    port = free_port()
    superlink = start_superlink(folder, module_spawn, port)
    keys = {name: make_node_key(root / name, name) for name in NAMES}
    finished = ended("register", str(folder.root), *map(str, keys.values()))
    assert finished.returncode == 0, finished.stderr
    assert "flwr supernode register" in finished.stdout
    started = {name: start_node(folder, module_spawn, key, port) for name, key in keys.items()}
    made = Federation(folder, module_spawn, port, superlink, keys, started)
    until(made.online, "the SuperNodes")
    return made


def test_status_shows_the_nodes_that_are_online(federation: Federation) -> None:
    status = federation.status()
    assert status["up"]
    assert [(n["name"], n["status"]) for n in status["nodes"]] == [(n, "online") for n in NAMES]


def test_a_key_that_is_registered_is_said_to_be(federation: Federation) -> None:
    finished = ended("register", str(federation.folder.root), str(federation.keys["cinema"]))
    assert finished.returncode == 0
    assert "registered already as cinema" in finished.stdout


def test_two_nodes_do_not_share_a_name(federation: Federation, tmp_path: Path) -> None:
    key = make_node_key(tmp_path, "cinema")
    finished = ended("register", str(federation.folder.root), str(key))
    assert finished.returncode == 2
    assert "--name" in finished.stderr


def test_a_key_that_was_taken_off_is_kept_out_for_ever(
    federation: Federation, tmp_path: Path
) -> None:
    key = make_node_key(tmp_path, "museum")
    root = str(federation.folder.root)
    assert ended("register", root, str(key)).returncode == 0
    assert "museum" in [node["name"] for node in federation.status()["nodes"]]
    assert ended("unregister", root, str(key)).returncode == 0
    assert "museum" not in [node["name"] for node in federation.status()["nodes"]]
    again = ended("unregister", root, str(key))
    assert again.returncode == 2
    assert "no node is registered under this key" in again.stderr
    back = ended("register", root, str(key))
    assert back.returncode == 2
    assert "must make a new one" in back.stderr


def test_a_run_is_followed_to_its_end(federation: Federation) -> None:
    finished = federation.standin("--name", "whole", "--orgs", "2", "--set", "training.rounds=2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "planned: organisations 2" in finished.stdout
    assert "round 1 of 2: replies 2" in finished.stdout
    assert "round 2 of 2: replies 2" in finished.stdout
    assert "flwr run" in finished.stdout
    (run,) = [run for run in federation.status()["runs"] if run["name"] == "whole"]
    assert run["state"] == "finished:completed"
    assert (run["epsilon"], run["last_event"]["event"]) == (8.0, "finished")


def test_a_run_that_fails_gives_the_reason_and_exit_status_1(federation: Federation) -> None:
    options = ["--name", "failing", "--orgs", "2", "--set", "training.rounds=1"]
    finished = federation.standin(*options, "--set", "run.seed=13")
    assert finished.returncode == 1
    assert "Run failed: " in finished.stdout
    assert "RuntimeError: the stand-in was told to fail" in finished.stdout


def test_the_real_apps_say_that_no_agent_answers(federation: Federation) -> None:
    options = ["--name", "real", "--orgs", "2", "--set", "training.rounds=1"]
    finished = ended("run", str(federation.folder.root), *options)
    assert finished.returncode == 1
    told, ending, after = finished.stdout.partition("Run failed")
    assert ending
    assert "failed: reason" in told
    assert "agent does not answer" in told
    assert "Traceback" not in after
    assert "flwr log" in after


def test_organisations_that_are_missing_are_named(federation: Federation) -> None:
    finished = federation.standin("--name", "big", "--orgs", "3", "--wait", "0")
    assert finished.returncode == 2
    assert "2 of 3 organisations are online; only 2 are registered" in finished.stderr
    assert not federation.folder.run("big").exists()


def test_ctrl_c_detaches_and_the_run_goes_on(federation: Federation) -> None:
    following = federation.following(
        "--name", "long", "--orgs", "2", "--set", "training.rounds=500"
    )
    following.until_prints("round 1 of 500")
    assert following.end(signal.SIGINT) == 130
    assert federation.state("long") == "running"

    second = federation.standin("--name", "second", "--orgs", "2")
    assert second.returncode == 2
    assert "run long is still running" in second.stderr
    resumed = federation.standin("--resume", "long")
    assert resumed.returncode == 2
    assert "run long is still running" in resumed.stderr

    stop = following.printed.partition("stop it:")[2].strip().splitlines()[0]
    path = str(Path(tacit_server()[0]).parent) + os.pathsep + os.environ["PATH"]
    subprocess.run(
        ["env", *shlex.split(stop)], env=os.environ | {"PATH": path}, check=True, timeout=60
    )
    until(lambda: federation.state("long") == "finished:stopped", "the run's stop")


def test_a_run_goes_on_after_the_superlink_was_ended(federation: Federation) -> None:
    options = ["--name", "cut", "--orgs", "2", "--set", "training.rounds=6"]
    following = federation.following(*options)
    following.until_prints("round 2 of 6")
    assert federation.superlink.end() == 0
    following.until_prints("following again when it does")
    assert ended("status", str(federation.folder.root)).returncode == 1
    federation.superlink = start_superlink(federation.folder, federation.spawn, federation.port)
    assert following.process.wait(120) == 1
    assert "No heartbeat" in following.printed

    until(federation.online, "the nodes")
    resumed = federation.standin("--resume", "cut")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "round 6 of 6" in resumed.stdout
    assert "round 1 of 6" not in resumed.stdout
    (run,) = [run for run in federation.status()["runs"] if run["name"] == "cut"]
    assert run["state"] == "finished:completed"

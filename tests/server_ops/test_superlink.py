"""``tacit server start``: what it refuses, and that nothing of a real SuperLink stays behind."""

import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.ops.flower import answers
from server.ops.folder import Folder, full_environment, read_address, write_connection
from tests.server_ops.operating import (
    Spawn,
    ended,
    free_port,
    make_folder,
    make_node_key,
    node_environment,
    start_node,
    start_superlink,
    tacit_server,
    until,
)
from tests.server_ops.standin import STANDIN_COMMANDS


def test_a_port_that_is_taken_is_refused_with_a_choice(folder: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = ended("start", str(folder.root), "--port", str(port))
    assert finished.returncode == 2
    assert f"port {port}" in finished.stderr
    assert "--port" in finished.stderr


def test_a_missing_certificate_is_refused(folder: Folder) -> None:
    (folder.tls / "server.crt").unlink()
    finished = ended("start", str(folder.root), "--port", str(free_port()))
    assert finished.returncode == 2
    assert "server.crt" in finished.stderr


def test_an_address_that_the_certificate_is_not_for_is_refused(folder: Folder) -> None:
    finished = ended("start", str(folder.root), "--host", "192.0.2.9")
    assert finished.returncode == 2
    assert "--renew --host 192.0.2.9" in finished.stderr


def test_a_folder_that_certs_did_not_make_is_refused(tmp_path: Path) -> None:
    for command in ("start", "status", "run"):
        finished = ended(command, str(tmp_path))
        assert finished.returncode == 2
        assert "tacit server certs" in finished.stderr


def processes_of(folder: Folder) -> list[str]:
    """Command lines of everything that lives and works in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(folder.flower):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def serverapp_runs(folder: Folder) -> bool:
    return any("flwr-serverapp" in line for line in processes_of(folder))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_behind_when_it_is_ended_in_the_middle_of_a_run(
    folder: Folder, spawn: Spawn, number: int
) -> None:
    port = free_port()
    superlink = start_superlink(folder, spawn, port)
    begin_a_run(folder, spawn, port)
    until(lambda: serverapp_runs(folder), "the ServerApp")
    assert len(processes_of(folder)) == 3
    assert superlink.end(number) == 0
    assert processes_of(folder) == []
    assert "SuperLink ended." in superlink.printed


@pytest.mark.slow
def test_the_superlink_ends_when_the_command_is_killed(folder: Folder, spawn: Spawn) -> None:
    port = free_port()
    superlink = start_superlink(folder, spawn, port)
    superlink.end(signal.SIGKILL)
    until(lambda: not processes_of(folder), "the SuperLink's end")
    start_superlink(folder, spawn, port)


def begin_a_run(folder: Folder, spawn: Spawn, port: int) -> None:
    key = make_node_key(folder.root.parent / "node", "org")
    assert ended("register", str(folder.root), str(key)).returncode == 0
    node = start_node(folder, spawn, key, port)
    options = ["--name", "first", "--orgs", "1", "--detach", "--set", "training.rounds=1000"]
    finished = ended("run", str(folder.root), *options, code=STANDIN_COMMANDS)
    assert finished.returncode == 0, finished.stderr + node.printed


@pytest.mark.slow
def test_a_superlink_that_dies_is_told_with_its_log(folder: Folder, spawn: Spawn) -> None:
    superlink = start_superlink(folder, spawn, free_port())
    (gate,) = psutil.Process(superlink.process.pid).children()
    gate.kill()
    assert superlink.process.wait(60) == 1
    assert "ended by itself" in superlink.printed
    assert "Uvicorn running" in superlink.printed
    assert processes_of(folder) == []


@pytest.mark.slow
def test_a_second_start_on_the_same_folder_is_refused(folder: Folder, spawn: Spawn) -> None:
    start_superlink(folder, spawn, free_port())
    finished = ended("start", str(folder.root), "--port", str(free_port()))
    assert finished.returncode == 2
    assert "is started already" in finished.stderr


@pytest.mark.slow
def test_an_authority_that_did_not_issue_the_certificate_is_not_answered(
    folder: Folder, spawn: Spawn, tmp_path: Path
) -> None:
    start_superlink(folder, spawn, free_port())
    assert answers(folder)
    stranger = make_folder(tmp_path / "stranger")
    write_connection(stranger, read_address(folder))
    assert not answers(stranger)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another machine, as far as the network goes: this one's address, and how to run there."""
    name = f"tacit{secrets.token_hex(3)}"
    here, there = f"{name}a", f"{name}b"
    steps = [
        f"ip netns add {name}",
        f"ip link add {here} type veth peer name {there}",
        f"ip link set {there} netns {name}",
        f"ip address add 10.213.7.1/24 dev {here}",
        f"ip link set {here} up",
        f"ip -n {name} address add 10.213.7.2/24 dev {there}",
        f"ip -n {name} link set {there} up",
        f"ip -n {name} link set lo up",
    ]
    try:
        for step in steps:
            try:
                subprocess.run(step.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespaces here: {step}: {error}")
        yield "10.213.7.1", ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True)


@pytest.mark.slow
def test_another_machine_may_join_but_neither_submit_nor_register(
    tmp_path: Path, spawn: Spawn, elsewhere: tuple[str, list[str]]
) -> None:
    """Flower itself asks nobody who submits a run; it would be code run as the server's user."""
    address, there = elsewhere
    folder = make_folder(tmp_path / "FED", address)
    port = free_port()
    start_superlink(folder, spawn, port)
    key = make_node_key(tmp_path / "node", "far")
    assert ended("register", str(folder.root), str(key)).returncode == 0

    flwr = str(Path(tacit_server()[0]).parent / "flwr")
    stranger = Folder(tmp_path / "stranger")
    stranger.tls.mkdir(parents=True)
    stranger.ca_certificate.write_bytes(folder.ca_certificate.read_bytes())
    write_connection(stranger, f"{address}:{port}")
    arguments = [flwr, "supernode", "register", str(make_node_key(tmp_path, "x")), "tacit"]
    from_there = subprocess.run(
        [*there, *arguments],
        env=full_environment(stranger),
        check=False,
        capture_output=True,
        text=True,
    )
    assert from_there.returncode != 0
    assert "403" in from_there.stdout + from_there.stderr
    here = subprocess.run(
        arguments, env=full_environment(stranger), check=False, capture_output=True, text=True
    )
    assert here.returncode == 0, here.stdout + here.stderr

    node = spawn(
        [
            *there,
            str(Path(flwr).parent / "flower-supernode"),
            *("--root-certificates", str(folder.ca_certificate)),
            *("--superlink", f"{address}:{port}"),
            *("--auth-supernode-private-key", str(key.with_suffix(""))),
        ],
        **node_environment(folder, key.parent),
    )
    until(lambda: is_online(folder, "far"), f"the node: {node.printed}")


def is_online(folder: Folder, name: str) -> bool:
    from server.ops.flower import nodes

    return any(node.name == name and node.status == "online" for node in nodes(folder))

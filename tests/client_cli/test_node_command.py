"""``tacit client node``: the real SuperNode at a real SuperLink; nothing is left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.link import Link, registered
from client.node import free_port, run_until_ended, supernode_command, typed
from shared.errors import ConfigError

Started = Callable[..., "subprocess.Popen[str]"]
WAIT_S = 90.0


def until(reached: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(one) for one in listed.read_text().split()] if listed.exists() else []


def test_the_command_is_flowers_own_and_can_be_typed(made: Any, tmp_path: Path) -> None:
    to = Link("fed.example:9092", tmp_path / "ca.crt")
    command = supernode_command(made.node, to, Path("/run/tacit/agent.sock"), 4711)
    line = typed(command, {"FLWR_HOME": "/x y", "PATH": "/bin"})
    assert line.startswith("FLWR_HOME='/x y' /")
    assert "--node-config 'agent=\"/run/tacit/agent.sock\"'" in line
    assert f"--auth-supernode-private-key {made.node / 'key'}" in line
    assert "PATH" not in line


def test_a_socket_that_flower_cannot_be_told_of_is_refused(made: Any, tmp_path: Path) -> None:
    to = Link("fed.example:9092", tmp_path / "ca.crt")
    with pytest.raises(ConfigError, match="no quotes, backslashes or spaces"):
        supernode_command(made.node, to, Path('/run/a"b.sock'), 4711)


def test_the_node_command_needs_neither_torch_nor_the_data_layer() -> None:
    code = (
        "import sys, client.cli, client.node, client.link; "
        "print([m for m in ('torch', 'duckdb', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    assert done.stdout.strip() == "[]"


# Leaves a grandchild that does not end on SIGTERM, as a busy one may not.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
print(grandchild.pid, flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""
RUNNER = """
import sys
from client import node
node.KILLED_S = 1.0
sys.exit(node.run_until_ended(sys.argv[1:], {}))
"""


@pytest.fixture
def run_stand_in() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a stand-in for the SuperNode under ``run_until_ended``, in a process of its own."""
    running = []

    def start(seconds: float, status: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", PARENT, str(seconds), str(status)]
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *command], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.terminate()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stand_in_that_is_told_to_end_takes_its_children_along(
    run_stand_in: Callable[..., "subprocess.Popen[str]"], number: signal.Signals
) -> None:
    process = run_stand_in(600, 0)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    assert lives(grandchild)
    process.send_signal(number)
    assert process.wait(WAIT_S) == 0
    assert not lives(grandchild)


def test_a_stand_in_that_ends_by_itself_leaves_its_status_and_no_child(
    run_stand_in: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = run_stand_in(0, 3)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    assert process.wait(WAIT_S) == 3
    assert not lives(grandchild)


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_until_ended([sys.executable, "-c", "pass"], {}) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture(scope="module")
def federation(
    start_tacit_once: Started, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Link]:
    """A real SuperLink with TLS and node authentication."""
    folder, port = tmp_path_factory.mktemp("federation") / "FED", free_port()
    made = start_tacit_once("server", "certs", str(folder), "--host", "127.0.0.1")
    assert made.wait(WAIT_S) == 0
    start_tacit_once("server", "start", str(folder), "--host", "127.0.0.1", "--port", str(port))

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, "the SuperLink does not listen")
    return folder, Link(f"127.0.0.1:{port}", folder / "tls" / "ca.crt")


@pytest.mark.slow
def test_a_real_superlink_tells_whether_a_key_is_registered(
    federation: tuple[Path, Link], start_tacit: Started, made: Any, tacit: Any
) -> None:
    folder, link = federation
    assert registered(link, made.node).state == "failed"
    refused = tacit(
        "client",
        "node",
        str(made.node),
        "--superlink",
        link.address,
        "--root-certificates",
        str(link.root_certificates),
    )
    assert refused.status == 2
    assert "has not registered this SuperNode's key" in refused.err
    register = start_tacit("server", "register", str(folder), str(made.node / "key.pub"))
    assert register.wait(WAIT_S) == 0
    assert registered(link, made.node).state == "ok"


@pytest.mark.slow
def test_a_real_supernode_goes_online_is_still_found_registered_and_leaves_nothing(
    federation: tuple[Path, Link], start_tacit: Started, tmp_path: Path
) -> None:
    from client.node_key import create_node_key

    folder, link = federation
    node = tmp_path / "node"
    create_node_key(node, "another house")
    register = start_tacit("server", "register", str(folder), str(node / "key.pub"))
    assert register.wait(WAIT_S) == 0
    process = start_tacit(
        "client",
        "node",
        str(node),
        "--superlink",
        link.address,
        "--root-certificates",
        str(link.root_certificates),
    )
    log = tmp_path / "process-1.log"
    until(lambda: "SuperNode ID" in log.read_text(), "the SuperNode is not online")
    # The question changes nothing: a node that is online stays so.
    assert registered(link, node).state == "ok"
    group = children(process.pid)[0]
    until(lambda: len(members(group)) >= 2, "flower-superexec has not started")
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert members(group) == []


class CutShort:
    """Carries connections to a SuperLink, or ends them in the middle of the TLS handshake."""

    def __init__(self, to: int) -> None:
        self.cuts = 0
        self._to = to
        self._cutting = False
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End what is open, and from now on what is opened."""
        self._cutting = True
        for one in self._open:
            _end(one)

    def mend(self) -> None:
        self._cutting = False

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listening.accept()
            except OSError:
                return
            if self._cutting:
                # All that was sent is read, so that the end is one and no reset.
                inner.recv(65536)
                inner.close()
                self.cuts += 1
                continue
            outer = socket.create_connection(("127.0.0.1", self._to))
            self._open += [inner, outer]
            for one, other in ((inner, outer), (outer, inner)):
                threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_supernode_whose_handshake_was_cut_short_comes_back(
    federation: tuple[Path, Link], start_tacit: Started, tmp_path: Path
) -> None:
    from client.node_key import create_node_key

    folder, link = federation
    node = tmp_path / "node"
    create_node_key(node, "a house behind a bad link")
    register = start_tacit("server", "register", str(folder), str(node / "key.pub"))
    assert register.wait(WAIT_S) == 0
    carrier = CutShort(int(link.address.rpartition(":")[2]))
    try:
        process = start_tacit(
            "client",
            "node",
            str(node),
            "--superlink",
            f"127.0.0.1:{carrier.port}",
            "--root-certificates",
            str(link.root_certificates),
        )
        log = tmp_path / "process-1.log"
        until(lambda: "SuperNode ID" in log.read_text(), "the SuperNode is not online")
        carrier.cut()
        until(lambda: "gave up its link" in log.read_text(), "the SuperNode holds on")
        carrier.mend()
        until(lambda: log.read_text().count("SuperNode ID") == 2, "it did not come back", 180.0)
        assert process.poll() is None
        assert carrier.cuts > 0
    finally:
        carrier.close()

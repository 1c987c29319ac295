"""Running Flower's SuperNode for an organisation, and ending all that it starts.

Runs as the operating-system user of the SuperNode, who sees its own folder and the agent's socket
and nothing else of the organisation.
"""

import os
import re
import shlex
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from client.link import Link
from client.node_key import node_key_path
from shared.errors import ConfigError

SUPERNODE = "client.supernode"
LOOPBACK = "127.0.0.1"
# Flower writes node settings as TOML between quotes.
PLAIN_PATH = re.compile(r"[^\"'\\\s]+")
ENDING_S = 20.0
KILLED_S = 10.0
LOOK_EVERY_S = 0.05


def supernode_command(node: Path, link: Link, socket: Path, port: int) -> list[str]:
    """Flower's own SuperNode with its own options, as a person can type it as well.

    Args:
        node: folder of the SuperNode.
        link: to the federation.
        socket: of the agent.
        port: on the loopback address, for the SuperNode's own processes.

    Raises:
        ConfigError: if the socket's path cannot be written in Flower's node config.
    """
    refuse_unusable(socket)
    return [
        sys.executable,
        "-P",
        "-m",
        SUPERNODE,
        "--superlink",
        link.address,
        "--root-certificates",
        str(link.root_certificates),
        "--auth-supernode-private-key",
        str(node_key_path(node)),
        "--node-config",
        f'agent="{socket}"',
        "--isolation",
        "subprocess",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
    ]


def refuse_unusable(socket: Path) -> None:
    """Refuse a socket's path that cannot be written in Flower's node config.

    Raises:
        ConfigError: says so.
    """
    if not PLAIN_PATH.fullmatch(str(socket)):
        raise ConfigError(
            f"{socket}: Flower's node config takes no quotes, backslashes or spaces in a path; "
            "choose another socket"
        )


def node_environment(node: Path) -> dict[str, str]:
    """Variables of the environment in which the SuperNode runs, beyond those there are."""
    return {
        "FLWR_HOME": str(node / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # The SuperNode finds its own helpers by name.
        "PATH": _search_path(),
    }


def typed(command: list[str], environment: Mapping[str, str]) -> str:
    """A command as a person can type it."""
    shown = [f"{n}={shlex.quote(value)}" for n, value in environment.items() if n != "PATH"]
    return " ".join([*shown, shlex.join(command)])


def free_port() -> int:
    """A port of the loopback address that nobody listens on at this moment."""
    with sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def run_until_ended(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command in a process group of its own until it ends or this process is told to end.

    SIGTERM and SIGINT are passed on. However it ends, no process of the group is left.

    Returns:
        Its exit status; 0 where it ended because it was told to.
    """
    child: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        told.append(number)
        if child is not None:
            child.send_signal(signal.SIGTERM)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        # A group of its own: the terminal's Ctrl-C comes through here alone.
        child = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL, process_group=0
        )
        if told:
            child.send_signal(signal.SIGTERM)
        _wait(child, told)
        return 0 if told else child.returncode
    finally:
        if child is not None:
            _end_group(child)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(child: "subprocess.Popen[bytes]", told: list[int]) -> None:
    deadline = None
    while child.poll() is None:
        if told and deadline is None:
            deadline = time.monotonic() + ENDING_S
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
        time.sleep(LOOK_EVERY_S)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """End what a SuperNode leaves behind: flower-superexec outlives it."""
    _signal_group(child.pid, signal.SIGTERM)
    if not _until(lambda: not _group_lives(child), KILLED_S):
        _signal_group(child.pid, signal.SIGKILL)
        _until(lambda: not _group_lives(child), KILLED_S)


def _group_lives(child: "subprocess.Popen[bytes]") -> bool:
    child.poll()
    return _signal_group(child.pid, 0)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _until(reached: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _search_path() -> str:
    here = str(Path(sys.executable).parent)
    return os.pathsep.join([here, os.environ.get("PATH", os.defpath)])

"""What the federation's SuperLink says, and Flower's own commands, run and printed."""

import json
import shlex
import socket
import ssl
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from server.ops.folder import (
    CONNECTION,
    Folder,
    flower_environment,
    full_environment,
    read_address,
    split_address,
)
from shared.errors import FederationError, RunError

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

ANSWER_S = 5.0
COMMAND_S = 120.0

ONLINE = "online"
UNREGISTERED = "unregistered"
# States of a run before its end, in Flower's words.
GOING = ("pending", "starting", "running")
COMPLETED = "finished:completed"


@dataclass(frozen=True)
class Node:
    """A SuperNode as the SuperLink knows it.

    Attributes:
        number: Flower's identifier.
        name: given at registration; may be empty.
        status: registered (never seen), online, offline or unregistered.
        public_key: PEM.
        changed: when it last came or went, ISO 8601; empty if never.
    """

    number: int
    name: str
    status: str
    public_key: bytes
    changed: str

    @property
    def registered(self) -> bool:
        """Whether it may join."""
        return self.status != UNREGISTERED

    @property
    def label(self) -> str:
        """Name, or number where it has none."""
        return self.name or str(self.number)


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it.

    Attributes:
        number: Flower's identifier.
        status: pending, starting, running, finished:completed, finished:failed, finished:stopped.
        details: why, where it did not complete.
        submitted: when, ISO 8601.
    """

    number: int
    status: str
    details: str
    submitted: str

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.status in GOING


def answers(folder: Folder) -> bool:
    """Whether the SuperLink answers and shows a certificate that organisations accept."""
    address = read_address(folder)
    context = ssl.create_default_context(cafile=folder.ca_certificate)
    try:
        return httpx.get(f"https://{address}/health", verify=context, timeout=ANSWER_S).is_success
    except httpx.HTTPError:
        return False


def nodes(folder: Folder) -> list[Node]:
    """All SuperNodes that are registered, by name, and those that were taken off again.

    Raises:
        FederationError: if the SuperLink does not answer.
    """
    from flwr.proto.control_pb2 import ListNodesRequest

    with _client(folder) as client:
        response = client.ListNodes(ListNodesRequest())
    found = [
        Node(
            info.node_id,
            info.name,
            info.status,
            info.public_key,
            max(info.last_activated_at, info.last_deactivated_at),
        )
        for info in response.nodes_info
    ]
    return sorted(found, key=lambda node: (node.name, node.number))


def runs(folder: Folder) -> dict[int, FlowerRun]:
    """All runs that the SuperLink knows, by number.

    Raises:
        FederationError: if the SuperLink does not answer.
    """
    from flwr.proto.control_pb2 import ListRunsRequest

    with _client(folder) as client:
        response = client.ListRuns(ListRunsRequest())
    found = {}
    for number, run in response.run_dict.items():
        status = ":".join(part for part in (run.status.status, run.status.sub_status) if part)
        found[number] = FlowerRun(number, status, run.status.details, run.pending_at)
    return found


def find_run(folder: Folder, number: int) -> FlowerRun:
    """One run by its number.

    Raises:
        RunError: if the SuperLink does not know it.
        FederationError: if the SuperLink does not answer.
    """
    known = runs(folder)
    if number not in known:
        raise RunError(
            f"the SuperLink knows no run {number}; was its database "
            f"{folder.superlink / 'state.db'} replaced?"
        )
    return known[number]


def shown(folder: Folder, arguments: Sequence[str]) -> str:
    """A command of Flower's as an operator can type it."""
    settings = [f"{name}={shlex.quote(v)}" for name, v in flower_environment(folder).items()]
    return " ".join((*settings, shlex.join(arguments)))


def flwr_line(folder: Folder, command: str, number: str, *options: str) -> str:
    """``flwr stop`` or ``flwr log`` of a run, as an operator can type it."""
    return shown(folder, [_program(), command, number, CONNECTION, *options])


def flwr(folder: Folder, arguments: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Run ``flwr ... --format json``, having shown it, and return what it answers.

    Raises:
        FederationError: if it fails; the sentence is Flower's.
    """
    line = [_program(), *arguments, "--format", "json"]
    say(shown(folder, line))
    printed, complaints = _run(folder, line)
    try:
        answer: dict[str, Any] = json.loads(printed)
    except ValueError as error:
        raise FederationError(f"{shlex.join(line)}: {printed}{complaints}".strip()) from error
    if not answer.get("success"):
        # Its last line is the error; those before say what was tried.
        message = str(answer.get("error-message", "")).strip().splitlines() or ["no reason given"]
        raise FederationError(f"{shlex.join(line)}: {message[-1]}")
    return answer


def server_log(folder: Folder, number: int) -> list[str]:
    """Lines that a run's ServerApp has logged.

    Raises:
        FederationError: if the SuperLink does not answer.
    """
    line = [_program(), "log", str(number), CONNECTION, "--show"]
    printed, _ = _run(folder, line)
    return printed.rstrip().splitlines()


def _program() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "flwr")


def _run(folder: Folder, line: Sequence[str]) -> tuple[str, str]:
    try:
        done = subprocess.run(
            line,
            check=False,
            env=full_environment(folder) | {"NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
        )
    except subprocess.TimeoutExpired as error:
        raise FederationError(
            f"{shlex.join(line)}: no answer within {COMMAND_S:.0f} s; is the SuperLink up? tacit "
            f"server status {folder.root}"
        ) from error
    return done.stdout, done.stderr


@contextmanager
def _client(folder: Folder) -> "Iterator[ControlHttpClient]":
    """Flower's own client, which tells names and keys of nodes; its command line does not."""
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.error import FlowerError

    address = read_address(folder)
    client = ControlHttpClient.from_server_address(
        address,
        insecure=False,
        root_certificates=folder.ca_certificate.read_bytes(),
        interceptors=[],
    )
    try:
        yield client
    except (httpx.HTTPError, FlowerError) as error:
        raise FederationError(
            f"the SuperLink at {address} does not answer: {error}; {_hint(folder, address)}"
        ) from error
    finally:
        client.close()


def _hint(folder: Folder, address: str) -> str:
    try:
        socket.create_connection(split_address(address), ANSWER_S).close()
    except OSError:
        return f"start it with: tacit server start {folder.root}"
    return f"its log is {folder.log}"

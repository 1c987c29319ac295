"""Two operating-system users of one host: the SuperNode's can ask the agent, and read nothing.

With the agent's own socket and folders; only what answers behind the socket is a stand-in.
"""

import grp
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

from client.service import listen
from client.setup import new_folders

AGENT, NODE, STRANGER = 61001, 61002, 61003
ANSWER = b"answered"

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become other users")


@dataclass(frozen=True)
class Host:
    """A host with an organisation's folder and a socket beside it."""

    organisation: Path
    socket: Path
    group: int


def become(user: int, groups: list[int]) -> None:
    """Take on a user who is in these groups and in one of its own; there is no way back."""
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)


def outcome(act: Callable[[], object]) -> str:
    """What an act gave, or the name of the error that it met."""
    try:
        return str(act())
    except OSError as error:
        return type(error).__name__


def tried_as(user: int, groups: list[int], act: Callable[[], object]) -> str:
    """What an act gave another user, or the error that it met."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on as a second pytest.
        try:
            become(user, groups)
            os.write(write_end, outcome(act).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


def be_the_agent(host: Host, group: str, ready: int) -> None:
    """Make the folders, listen at the socket, and say the same to everybody who connects."""
    with new_folders(host.organisation, host.organisation.with_name("org-node")) as (folder, _):
        (folder / "ledger.sqlite").write_text("what no federation may see")
    listening = listen(host.socket, group)
    os.write(ready, b"listens")
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.send(ANSWER)


@pytest.fixture
def host() -> Iterator[Host]:
    """The agent's user has made its folders and listens at its socket."""
    group = next(found for found in grp.getgrall() if found.gr_gid not in (0, AGENT, NODE))
    base = Path(mkdtemp(prefix="tacit-host-"))
    base.chmod(0o711)
    made = Host(base / "home" / "org", base / "run" / "agent.sock", group.gr_gid)
    for folder, owning_group, mode in (("home", AGENT, 0o711), ("run", group.gr_gid, 0o750)):
        (base / folder).mkdir(mode=mode)
        os.chown(base / folder, AGENT, owning_group)
    read_end, write_end = os.pipe()
    agent = os.fork()
    if agent == 0:
        try:
            become(AGENT, [group.gr_gid])
            be_the_agent(made, group.gr_name, write_end)
        finally:
            os._exit(1)
    os.close(write_end)
    try:
        with os.fdopen(read_end) as pipe:
            assert pipe.read(len("listens")) == "listens"
        yield made
    finally:
        os.kill(agent, signal.SIGKILL)
        os.waitpid(agent, 0)
        shutil.rmtree(base)


def asking(path: Path) -> Callable[[], str]:
    """Connect to the agent's socket and read what it says."""

    def ask() -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            return connection.recv(len(ANSWER)).decode()

    return ask


def test_the_supernodes_user_can_ask_the_agent(host: Host) -> None:
    assert tried_as(NODE, [host.group], asking(host.socket)) == ANSWER.decode()


def test_the_supernodes_user_cannot_read_the_organisations_folder(host: Host) -> None:
    ledger = host.organisation / "ledger.sqlite"
    assert tried_as(AGENT, [], ledger.read_text) == "what no federation may see"
    assert tried_as(NODE, [host.group], ledger.read_text) == "PermissionError"
    listing = tried_as(NODE, [host.group], lambda: list(host.organisation.iterdir()))
    assert listing == "PermissionError"


def test_the_supernodes_user_cannot_put_a_socket_in_the_agents_place(host: Host) -> None:
    assert tried_as(NODE, [host.group], host.socket.unlink) == "PermissionError"


def test_a_user_outside_the_group_cannot_ask(host: Host) -> None:
    assert tried_as(STRANGER, [], asking(host.socket)) == "PermissionError"

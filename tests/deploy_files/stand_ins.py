"""What runs under our units in place of tacit: tries what they forbid, writes down what came.

Run by test_units_in_force.py with the system's own Python, which a confined user can reach.
"""

import grp
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ORGANISATION = Path("/var/lib/tacit/org")
NODE = Path("/var/lib/tacit-node")
SOCKET = "/run/tacit/agent.sock"
SECRET = "what no federation may see"


def tried(act: Callable[[], object]) -> str:
    """What an act gave, or the name of the error that it met."""
    try:
        return str(act())
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)


def speak() -> str:
    """One question over the agent's socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        return connection.recv(100).decode()


def interfaces() -> str:
    """Network interfaces of this process."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return " ".join(sorted(line.split(":")[0].strip() for line in lines))


def internet() -> str:
    """An internet socket, of the kind that a connection would need."""
    with socket.socket(socket.AF_INET):
        return "opened"


def common() -> dict[str, str]:
    """What both try."""
    return {
        "user": str(os.getuid()),
        "interfaces": interfaces(),
        "internet socket": tried(internet),
        "read the ledger": tried((ORGANISATION / "ledger.sqlite").read_text),
        "list the organisation's folder": tried(lambda: list(ORGANISATION.iterdir())),
        "read the node's key": tried((NODE / "key").read_text),
        "write to /etc": tried(lambda: Path("/etc/tacit-was-here").write_text("")),
        "write to /usr": tried(lambda: Path("/usr/tacit-was-here").write_text("")),
        "become root": tried(lambda: os.setuid(0)),
    }


def agent(out: Path) -> None:
    """Lays out an organisation's folder, opens the socket as the agent does, and answers."""
    (ORGANISATION / "ledger.sqlite").write_text(SECRET)
    for path in (ORGANISATION, ORGANISATION / "ledger.sqlite"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    Path(SOCKET).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET)
        os.chown(SOCKET, -1, grp.getgrnam("tacit-node").gr_gid)
        Path(SOCKET).chmod(0o660)
        listener.listen()
        out.write_text(json.dumps(common()))
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"answered")


def node(out: Path) -> None:
    """Tries what a federation's code could, then starts a helper that outlives it."""
    found = common() | {"ask the agent": tried(speak)}
    found["read the agent's settings"] = tried(Path("/etc/tacit/agent.env").read_text)
    subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    out.write_text(json.dumps(found))
    time.sleep(1000)


if __name__ == "__main__":
    {"agent": agent, "node": node}[sys.argv[1]](Path(sys.argv[2]))

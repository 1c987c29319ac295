"""Runs ``tacit server``, real SuperLinks and real SuperNodes, and leaves nothing of them behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from server.heads import HeadBook
from server.ops.certs import make_authority, make_server_certificate
from server.ops.folder import Folder, full_environment, write_connection

COMMANDS = """
import sys, typer
from server.cli import register_commands
from shared.errors import TacitError
app = typer.Typer(pretty_exceptions_enable=False)
register_commands(app)
try:
    app()
except TacitError as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(2)
"""
PATIENCE_S = 150.0


def make_folder(root: Path, *hosts: str) -> Folder:
    """What ``tacit server certs`` makes."""
    folder = Folder(root)
    chosen = hosts or ("federation.example.org",)
    make_authority(folder, chosen)
    make_server_certificate(folder, chosen, 365)
    HeadBook(folder.server)
    write_connection(folder, "127.0.0.1:9092")
    return folder


def tacit_server(*arguments: str, code: str = COMMANDS) -> list[str]:
    """The command line of ``tacit server ...``."""
    return [sys.executable, "-P", "-c", code, *arguments]


def ended(*arguments: str, code: str = COMMANDS) -> subprocess.CompletedProcess[str]:
    """``tacit server ...``, run to its end."""
    return subprocess.run(
        tacit_server(*arguments, code=code),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str) -> None:
    """Block until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.1)


@dataclass
class Process:
    """A process with what it printed."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def printed(self) -> str:
        """So far."""
        return self.output.read_text(errors="replace")

    def until_prints(self, words: str) -> None:
        """Block until it has printed some words."""
        until(lambda: words in self.printed or self.process.poll() is not None, repr(words))
        assert words in self.printed, self.printed

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


Spawn = Callable[..., Process]


@contextlib.contextmanager
def spawning(outputs: Path) -> Iterator[Spawn]:
    """Start processes; they and what they started in their session are gone at the end."""
    started: list[Process] = []

    def spawn(arguments: list[str], **environment: str) -> Process:
        output = outputs / f"output-{len(started)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                arguments,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(Process(process, output))
        return started[-1]

    try:
        yield spawn
    finally:
        for each in reversed(started):
            if each.process.poll() is None:
                each.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()


def make_node_key(directory: Path, name: str) -> Path:
    """A SuperNode's key pair in OpenSSH form; returns the public one's path."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (directory / name).write_bytes(private)
    (directory / name).chmod(0o600)
    path = directory / f"{name}.pub"
    path.write_bytes(public + f" {name}\n".encode())
    return path


def start_superlink(folder: Folder, spawn: Spawn, port: int) -> Process:
    """``tacit server start``, ready."""
    process = spawn(tacit_server("start", str(folder.root), "--port", str(port)))
    process.until_prints("SuperLink ready")
    return process


def start_node(folder: Folder, spawn: Spawn, public_key: Path, port: int) -> Process:
    """A real SuperNode, as ``tacit client node`` runs it."""
    command = [
        *(sys.executable, "-P", "-m", "client.supernode"),
        *("--root-certificates", str(folder.ca_certificate)),
        *("--superlink", f"127.0.0.1:{port}"),
        *("--auth-supernode-private-key", str(public_key.with_suffix(""))),
        *("--node-config", f'agent="{public_key.parent}/agent.sock"'),
        *("--port", str(free_port())),
    ]
    return spawn(command, **node_environment(folder, public_key.parent))


def node_environment(folder: Folder, directory: Path) -> dict[str, str]:
    """Of a SuperNode, which has a home of its own."""
    return full_environment(folder) | {"FLWR_HOME": str(directory / "flwr")}

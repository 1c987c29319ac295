"""``tacit client serve`` as a process: says where it listens, refuses what is unsafe, ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from client.serving.access import VARIABLE
from client.serving.command import TEMPLATES, loader
from tests.serving.shop import SOON_S, Shop

pytestmark = pytest.mark.slow

TACIT = Path(sys.executable).with_name("tacit")
KEY = "k" * 40
Serve = Callable[..., "tuple[subprocess.Popen[bytes], Path]"]


@pytest.fixture
def serve(first_shop: Shop, tmp_path: Path) -> Iterator[Serve]:
    """Start the command with some options; ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str, **variables: str) -> "tuple[subprocess.Popen[bytes], Path]":
        log = tmp_path / f"log-{len(running)}"
        command = [str(TACIT), "client", "serve", str(first_shop.directory), *options]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--writer", TEMPLATES],
                stdout=file,
                stderr=file,
                env={**os.environ, **variables},
            )
        running.append(process)
        return process, log

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(SOON_S)


def listening_at(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + SOON_S
    while not (found := re.search(r"listening at (https?://\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_when_told(serve: Serve, number: signal.Signals) -> None:
    process, log = serve("--port", "0")
    address = listening_at(process, log)
    assert address.startswith("http://127.0.0.1:")
    assert httpx.get(f"{address}/v1/users", timeout=SOON_S).json()["total"] == 14
    process.send_signal(number)
    assert process.wait(SOON_S) == 0
    said = log.read_text()
    # One line each for the writer, the address and the delivery: requests leave none.
    assert len(said.splitlines()) == 3, said
    assert "Traceback" not in said


def test_beyond_this_machine_it_refuses_without_a_key_and_warns_without_tls(serve: Serve) -> None:
    process, log = serve("--host", "0.0.0.0", "--port", "0")
    assert process.wait(SOON_S) == 2
    assert "--key-file FILE" in log.read_text()
    process, log = serve("--host", "0.0.0.0", "--port", "0", **{VARIABLE: KEY})
    address = listening_at(process, log).replace("0.0.0.0", "127.0.0.1")
    assert "without TLS" in log.read_text()
    assert httpx.get(f"{address}/v1/users", timeout=SOON_S).status_code == 401
    shown = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{address}/v1/users", headers=shown, timeout=SOON_S).status_code == 200
    assert KEY not in log.read_text()


def test_a_port_in_use_is_told_in_a_sentence(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process, log = serve("--port", port)
        assert process.wait(SOON_S) == 2
    assert "cannot be listened at" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_certificate_without_its_key_is_refused(serve: Serve, tmp_path: Path) -> None:
    process, log = serve("--certificate", str(tmp_path / "no.pem"))
    assert process.wait(SOON_S) == 2
    assert "go together" in log.read_text()


def test_templates_speak_where_they_are_asked_for(first_shop: Shop) -> None:
    assert loader(TEMPLATES, first_shop.directory) is None
    assert loader("", first_shop.directory) is not None

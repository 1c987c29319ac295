"""Starts the SuperLink, keeps its log, and leaves no process behind when it is ended."""

import logging
import logging.handlers
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO

import psutil  # type: ignore[import-untyped]

from server.ops.certs import check_server_certificate
from server.ops.flower import answers, shown
from server.ops.folder import (
    PRIVATE_FOLDER,
    Folder,
    full_environment,
    join_address,
    write_connection,
)
from server.ops.gate import PARENT_VARIABLE
from shared.errors import ConfigError, RunError
from shared.files import locked

Say = Callable[[str], None]

# Every process of this SuperLink inherits the mark, wherever Flower starts it.
MARK_VARIABLE = "TACIT_SUPERLINK_MARK"
READY_S = 60.0
GRACE_S = 10.0
STARTING_POLL_S = 0.1
POLL_S = 0.5
LOG_BYTES = 20_000_000
LOG_FILES = 9
LAST_LINES = 15
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def start(folder: Folder, host: str, port: int, say: Say, warn: Say) -> int:
    """Run the SuperLink until it is ended by SIGTERM or Ctrl-C, or ends by itself.

    Args:
        folder: of the federation.
        host: address to listen on; ``0.0.0.0`` for all.
        port: to listen on.
        say, warn: take lines for the operator.

    Returns:
        exit status: 0 if it was asked to end, 1 if the SuperLink ended by itself.

    Raises:
        RunError: if the certificate cannot be used, or the folder or the port is in use.
        ConfigError: if the certificate is not for ``host``.
    """
    certificate, warnings = check_server_certificate(folder, datetime.now(UTC))
    for warning in warnings:
        warn(warning)
    local = ANY_ADDRESS.get(host, host)
    if local not in certificate.hosts:
        raise ConfigError(
            f"--host {host}: the certificate is for {', '.join(certificate.hosts)}; listen on "
            f"0.0.0.0, or run: tacit server certs {folder.root} --renew --host {host}"
        )
    folder.superlink.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    taken = (
        f"{folder.root}: its SuperLink is started already; see: tacit server status {folder.root}"
    )
    with locked(folder.superlink / "lock", taken):
        _check_port(host, port)
        write_connection(folder, join_address(local, port))
        return _supervise(folder, command(folder, host, port), say)


def command(folder: Folder, host: str, port: int) -> list[str]:
    """The command that runs the SuperLink."""
    return [
        sys.executable,
        "-P",
        "-m",
        "server.ops.gate",
        *("--ssl-ca-certfile", str(folder.ca_certificate)),
        *("--ssl-certfile", str(folder.tls / "server.crt")),
        *("--ssl-keyfile", str(folder.tls / "server.key")),
        "--enable-supernode-auth",
        *("--database", str(folder.superlink / "state.db")),
        "--disable-runtime-dependency-installation",
        *("--host", host),
        *("--port", str(port)),
    ]


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise RunError(
                f"port {port} on {host} cannot be listened on ({error.strerror}); end what uses "
                "it, or choose another with --port"
            ) from error


def _supervise(folder: Folder, arguments: list[str], say: Say) -> int:
    say(shown(folder, arguments))
    mark = secrets.token_hex(16)
    environment = full_environment(folder) | {
        MARK_VARIABLE: mark,
        PARENT_VARIABLE: str(os.getpid()),
    }
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    started = time.monotonic()
    # A session of its own: Ctrl-C reaches this process alone, which ends the others in order.
    process = subprocess.Popen(
        arguments,
        env=environment,
        cwd=folder.superlink,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    assert process.stdout is not None
    copier = threading.Thread(target=_keep_log, args=(process.stdout, folder.log, last))
    copier.start()
    ready = False
    try:
        while process.poll() is None and not stop.is_set():
            if not ready and answers(folder):
                ready = True
                say(f"SuperLink ready after {time.monotonic() - started:.1f} s; log: {folder.log}")
            if not ready and time.monotonic() - started > READY_S:
                raise RunError(
                    f"the SuperLink did not answer within {READY_S:.0f} s; its log {folder.log} "
                    f"ends with:\n{_indented(last)}"
                )
            stop.wait(POLL_S if ready else STARTING_POLL_S)
    finally:
        _end(process, mark)
        copier.join()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stop.is_set():
        say("SuperLink ended.")
        return 0
    say(f"The SuperLink ended by itself; its log {folder.log} ends with:\n{_indented(last)}")
    return 1


def _keep_log(stream: IO[bytes], path: Path, last: deque[str]) -> None:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
    )
    with stream:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            last.append(line)
            handler.emit(logging.LogRecord("superlink", logging.INFO, "", 0, line, None, None))
    handler.close()


def _indented(lines: deque[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ask the SuperLink to end, then end whatever it started and left behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    while left := marked(mark):
        for each in left:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1.0)


def marked(mark: str) -> list[psutil.Process]:
    """Processes that live and were started, by whatever way, by the SuperLink with this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK_VARIABLE) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Ended meanwhile, or another user's: none of ours.
            continue
    return found

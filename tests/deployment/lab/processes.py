"""Processes of a test: started with a mark in their environment, found by it, always ended."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MARK = "TACIT_LAB"
PARTY = "TACIT_LAB_PARTY"
POLL_S = 0.05
# A wait that is longer than this is a failure, also on a machine that has more to do.
PATIENCE_S = 240.0


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll until something holds.

    Raises:
        TimeoutError: names what did not come about.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s: {what}")
        time.sleep(POLL_S)


class Started:
    """A process with its log file; it and all that it starts carry the lab's mark.

    Args:
        name: of the log.
        command: to run.
        log: file that gets what it prints; appended to.
        environment: added to this process's.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process itself; ``ip netns exec`` and ``setpriv`` give theirs on."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def text(self) -> str:
        """What this start of it has printed, without colours."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return re.sub(r"\x1b\[[0-9;]*m", "", file.read().decode(errors="replace"))

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it has printed something.

        Raises:
            TimeoutError: with the end of its log.
            RuntimeError: if it has ended before.
        """
        deadline = time.monotonic() + timeout_s
        while text not in self.text():
            if not self.running and text not in self.text():
                raise RuntimeError(f"{self.name} ended without {text!r}:\n{self.text()[-4000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} did not print {text!r}:\n{self.text()[-4000:]}")
            time.sleep(POLL_S)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns its exit status.

        Raises:
            TimeoutError: with the end of its log.
        """
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} has not ended:\n{self.text()[-4000:]}") from error

    def kill(self) -> None:
        """End it as a power cut would: no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """End it as an operator does."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)


class Lab:
    """Starts processes and finds whatever they have started."""

    def __init__(self, mark: str, folder: Path) -> None:
        self.mark = mark
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, party: str, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> Started:
        """Start a command of a party; its log is ``PARTY-NAME.log``."""
        marked = {**environment, MARK: self.mark, PARTY: party, "PYTHONUNBUFFERED": "1"}
        return Started(f"{party} {name}", command, self.folder / f"{party}-{name}.log", marked)

    def find(self, program: str, party: str = "") -> list[int]:
        """Processes of this lab whose command line has ``program``, of one party or of all."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # It has ended, or is none of ours to look at.
            if f"{MARK}={self.mark}".encode() not in environment or program not in command:
                continue
            if not party or f"{PARTY}={party}".encode() in environment:
                found.append(int(folder.name))
        return found

    def end_all(self) -> None:
        """Kill every process that carries the mark."""
        for _ in range(100):
            left = self.find("")
            if not left:
                return
            for pid in left:
                send(pid, signal.SIGCONT)
                send(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        raise RuntimeError(f"processes that do not end: {self.find('')}")


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def owner_of(pid: int) -> list[int]:
    """User that a process runs as; none if it has ended."""
    try:
        return [Path(f"/proc/{pid}").stat().st_uid]
    except FileNotFoundError:
        return []


def held(pid: int) -> None:
    """Stop a process where it is, until it is sent SIGCONT."""
    os.kill(pid, signal.SIGSTOP)

"""How much memory this process holds, watched while it works."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import RunError

_STATUS = Path("/proc/self/status")
_EVERY_S = 0.005


class Peak:
    """Most memory seen so far, in MB of 10**6 bytes.

    Attributes:
        resident_mb: all that is held, mapped files among it, which the system takes back at need.
        anonymous_mb: what is held in memory alone.
    """

    def __init__(self) -> None:
        self.resident_mb = 0.0
        self.anonymous_mb = 0.0

    def look(self) -> None:
        """Take note of the present figures."""
        lines = _STATUS.read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        self.resident_mb = max(self.resident_mb, _mb(found["VmRSS"]))
        self.anonymous_mb = max(self.anonymous_mb, _mb(found["RssAnon"]))


@contextmanager
def watched() -> Iterator[Peak]:
    """Look every few milliseconds while the block runs.

    Raises:
        RunError: where the system does not tell a process's memory.
    """
    if not _STATUS.is_file():
        raise RunError(f"{_STATUS}: this measurement of memory needs Linux")
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            peak.look()

    peak.look()
    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.look()


def _mb(value: str) -> float:
    return int(value.split()[0]) * 1024 / 1e6

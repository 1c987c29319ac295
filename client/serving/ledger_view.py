"""The organisation's ledger as this process sees it: read when it has changed, never written."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.chain import read_sealed
from shared.departures import Egress, list_egress
from shared.spending import Contents, read_contents

# A change within this of another may leave time and size of the file as they were.
UNSURE_NS = 2 * 10**9

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Reading:
    """A ledger at one time; the same object for as long as nothing was written.

    Attributes:
        newest: how many records there are, and the hash of the last one.
        contents: policies and spends.
        egress: what left and what did not.
    """

    newest: tuple[int, str]
    contents: Contents
    egress: Egress


class LedgerView:
    """Reads a ledger again only when its file may have changed.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._read: tuple[Stamp, int] = (), 0

    def read(self) -> Reading:
        """The ledger as it is now.

        Raises:
            PrivacyError: if there is none, or it cannot be read.
        """
        with self._lock:
            stamp, at_ns = self._stamp(), time.time_ns()
            if self._last is None or not self._sure(stamp):
                stored = read_sealed(self._path)
                newest = len(stored), stored[-1].sha256 if stored else ""
                if self._last is None or self._last.newest != newest:
                    self._last = Reading(newest, read_contents(stored), list_egress(stored))
                self._read = stamp, at_ns
            return self._last

    def _sure(self, stamp: Stamp) -> bool:
        """Whether the file is as it was read, and was at rest by then."""
        before, read_at_ns = self._read
        return stamp == before and all(
            changed_ns < read_at_ns - UNSURE_NS for _, changed_ns, _ in stamp
        )

    def _stamp(self) -> Stamp:
        # New records are in the write-ahead log first.
        found = []
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            # The agent removes the log when it ends.
            with suppress(FileNotFoundError):
                one = path.stat()
                found.append((one.st_ino, one.st_mtime_ns, one.st_size))
        return tuple(found)

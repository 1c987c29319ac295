"""Where the time of a process goes: wall seconds of each stage of a round, and how often it ran.

The times say how much private data there is: they stay on the machine.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_totals: dict[str, float] = {}
_calls: Counter[str] = Counter()
_lock = threading.Lock()
_running = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of the block as that of a stage; a stage within it takes its own time out.

    On a GPU the time of a product is counted where its result is waited for.
    """
    outer: list[float] | None = getattr(_running, "inner_s", None)
    inner = _running.inner_s = [0.0]
    started = time.perf_counter()
    try:
        yield
    finally:
        passed = time.perf_counter() - started
        _running.inner_s = outer
        if outer is not None:
            outer[0] += passed
        with _lock:
            _totals[name] = _totals.get(name, 0.0) + passed - inner[0]
            _calls[name] += 1


def stage_seconds() -> dict[str, float]:
    """Seconds by stage since this process started, of all its threads."""
    with _lock:
        return dict(_totals)


def stage_calls() -> dict[str, int]:
    """How often each stage ran since this process started."""
    with _lock:
        return dict(_calls)

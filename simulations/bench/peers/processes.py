"""A process of its own for every way, watched from outside: its output, its memory, its end."""

import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]

from shared.errors import RunError

MEMORY = "smaps_rollup"
# To read the memory of Ray's processes four times a second took 7% of two cores.
SAMPLE_S = 1.0
LIMIT_S = 1800.0
END_S = 30.0
SAID = 3000


@dataclass(frozen=True)
class Ended:
    """A process that ended well.

    Attributes:
        started: seconds of ``time.monotonic``, which all processes share.
        usage: ``[samples, 2] float64``: times, and processor seconds that it and its descendants
            had used by then.
        peak_mib: most that it and its descendants held at one time: the sum of their proportional
            set sizes, in which a shared page counts once.
    """

    started: float
    usage: npt.NDArray[np.float64]
    peak_mib: float


def watched(command: Sequence[str], log: Path, environment: dict[str, str], what: str) -> Ended:
    """Run a command to its end, and end what it leaves behind.

    Args:
        command: to run.
        log: gets what it says.
        environment: of the process.
        what: names it in an error.

    Raises:
        RunError: if it fails or takes longer than ``LIMIT_S``; with the end of what it said. Also
            where the system does not tell a process's memory.
    """
    if not Path("/proc/self", MEMORY).is_file():
        raise RunError(f"/proc/self/{MEMORY} is not there: this measurement of memory needs Linux")
    family: set[psutil.Process] = set()
    used: dict[psutil.Process, float] = {}
    usage, peak, done = [(time.monotonic(), 0.0)], 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            family.update(_family(process.pid))
            used.update({member: _processor_s(member, used) for member in family})
            usage.append((time.monotonic(), sum(used.values())))
            peak = max(peak, sum(_proportional_mib(member.pid) for member in family))

    with log.open("wb") as stream:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            status: int | None = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            done.set()
            sampler.join()
            _end(family)
            process.wait()
    if status != 0:
        how = f"ran longer than {LIMIT_S:g} s" if status is None else f"ended with {status}"
        said = log.read_text(errors="replace").strip()[-SAID:]
        raise RunError(f"{what}: {how}: {said}")
    return Ended(started, np.array(usage), peak)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _processor_s(process: psutil.Process, before: Mapping[psutil.Process, float]) -> float:
    """Processor seconds so far; those seen last of a process that has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return before.get(process, 0.0)
    return float(times.user + times.system)


def _proportional_mib(pid: int) -> float:
    """Proportional set size; 0 of a process that has ended."""
    try:
        lines = Path("/proc", str(pid), MEMORY).read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024.0


def _end(family: Iterable[psutil.Process]) -> None:
    """End what is still there. Each is known by its start too: its number may be another's now."""
    left = [process for process in family if process.is_running()]
    for process in left:
        process.terminate()
    for process in psutil.wait_procs(left, timeout=END_S)[1]:
        process.kill()

"""Whether this machine can carry an agent: disk, randomness, open files."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from client.outcomes import FAILED, OK, WARNING, Outcome
from shared.randomness import from_operating_system
from shared.words import bytes_text

# A ledger that cannot be written stops every release.
LEAST_DISK_BYTES = 100 * 10**6
LITTLE_DISK_BYTES = 10**9
# DuckDB, torch and the socket's connections together take some two hundred.
LEAST_FILES, FEW_FILES = 256, 1024
DRAW_BYTES = 32


def machine_outcomes(directory: Path) -> Iterator[Outcome]:
    """Outcomes for the machine, apart from its GPU.

    Args:
        directory: of the organisation; its disk is looked at.
    """
    yield disk(directory)
    yield randomness()
    yield open_files()


def disk(directory: Path) -> Outcome:
    """Free space where the ledger and the answers are kept."""
    place = directory if directory.exists() else directory.resolve().parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Outcome("disk", FAILED, f"{place}: cannot be looked at ({error.strerror})")
    sentence = f"{bytes_text(free)} free at {place}"
    if free < LEAST_DISK_BYTES:
        return Outcome(
            "disk", FAILED, sentence, f"make room: at least {bytes_text(LITTLE_DISK_BYTES)}"
        )
    if free < LITTLE_DISK_BYTES:
        return Outcome("disk", WARNING, sentence, "make room before a long run")
    return Outcome("disk", OK, sentence)


def randomness() -> Outcome:
    """Whether the operating system gives random bytes now, and others each time."""
    name = "randomness"
    try:
        first, second = (os.getrandom(DRAW_BYTES, os.GRND_NONBLOCK) for _ in range(2))
    except (BlockingIOError, OSError) as error:
        return Outcome(
            name,
            FAILED,
            f"the operating system has no randomness yet ({error.strerror})",
            "wait until it has started; a virtual machine needs a virtio-rng device",
        )
    noise = [from_operating_system().generator.normal(size=4).tolist() for _ in range(2)]
    if first == second or noise[0] == noise[1]:
        return Outcome(
            name,
            FAILED,
            "the operating system gave the same bytes twice: noise would repeat",
            "do not take part from this machine",
        )
    return Outcome(name, OK, "the operating system gives random bytes")


def open_files() -> Outcome:
    """How many files a process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= FEW_FILES:
        return Outcome("open files", OK, "a process may open enough files")
    state = FAILED if limit < LEAST_FILES else WARNING
    return Outcome(
        "open files",
        state,
        f"a process may open {limit} files",
        f"raise it: ulimit -n {FEW_FILES}, or LimitNOFILE of the systemd unit",
    )

"""Runs an agent in a process of its own; a failpoint ends or holds it where a test wants it."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from randomgen import AESCounter

import client.agent
import client.releases
import client.service
from client.ledger import Ledger
from client.releases import Releases
from client.session import Session
from shared.randomness import PrivateRandom
from shared.wire import Parcel, to_bytes

# Given by ``House.start``.
DIRECTORY = Path(globals()["directory"])
FAILPOINT = str(globals()["failpoint"])


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after(work: Callable[..., Any]) -> Callable[..., None]:
    def worked(*arguments: Any, **named: Any) -> None:
        work(*arguments, **named)
        die()

    return worked


def of_a_mechanism(deadly: Callable[..., Any], work: Callable[..., Any]) -> Callable[..., Any]:
    """``deadly`` for releases that cost, ``work`` for the others."""

    def recorded(ledger: Ledger, request: str, release: Any) -> Any:
        chosen = work if release.mechanism in ("none", "protocol") else deadly
        return chosen(ledger, request, release)

    return recorded


def of_a_phase(phase: str) -> Callable[..., Any]:
    """``Releases.protocol``, which ends the process once that phase is on record."""

    def recorded(releases: Releases, request: Any, kind: str, arrays: Any) -> Any:
        reply = PROTOCOL(releases, request, kind, arrays)
        if kind.startswith(phase):
            die()
        return reply

    return recorded


def unless_masked(parcel: Parcel) -> bytes:
    """Bytes of a reply; a masked vector ends the process before it leaves."""
    if "masked" in parcel.arrays:
        die()
    return to_bytes(parcel)


def counted(work: Callable[..., Any]) -> Callable[..., Any]:
    """``work``, with a byte in a file each time; held while a file says so."""

    def done(*arguments: Any) -> Any:
        with (DIRECTORY / "computed").open("ab") as file:
            file.write(b".")
        while (DIRECTORY / "hold").exists():
            time.sleep(0.01)
        return work(*arguments)

    return done


def repeatable() -> PrivateRandom:
    """The same stream each time, as if it were the operating system's."""
    return PrivateRandom(np.random.Generator(AESCounter(seed=7)), secret=True)


PROTOCOL = Releases.protocol
PHASES = {"keys": "announce", "shares": "deal", "unmask": "unmask"}
POINTS: dict[str, tuple[Any, str, Any]] = {
    "before-the-intent": (Ledger, "reserve", die),
    "after-the-intent": (Releases, "_compute", die),
    "after-computing": (Releases, "_compute", dies_after(Releases._compute)),
    "after-keeping-the-answer": (
        Ledger,
        "record_release",
        of_a_mechanism(die, Ledger.record_release),
    ),
    "after-recording-the-release": (
        Ledger,
        "record_release",
        of_a_mechanism(dies_after(Ledger.record_release), Ledger.record_release),
    ),
    "before-the-reply-leaves": (client.service, "to_bytes", die),
    "masked-admitted": (Session, "admit", dies_after(Session.admit)),
    "masked-leaving": (client.service, "to_bytes", unless_masked),
    **{f"{phase}-asked": (Session, name, die) for phase, name in PHASES.items()},
    **{
        f"{phase}-kept": (Session, name, dies_after(getattr(Session, name)))
        for phase, name in PHASES.items()
    },
    **{f"{phase}-recorded": (Releases, "protocol", of_a_phase(phase)) for phase in PHASES},
    "repeatable": (client.releases, "from_operating_system", repeatable),
}

if __name__ == "__main__":
    log = os.open(DIRECTORY / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO)
    client.agent.popularity_sum = counted(client.agent.popularity_sum)
    if FAILPOINT:
        where, name, deadly = POINTS[FAILPOINT]
        setattr(where, name, deadly)
    client.service.serve(DIRECTORY)

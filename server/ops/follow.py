"""Follows a run: progress for a person while it goes, the reason where it failed."""

import time
from collections.abc import Callable

from server.ops.flower import COMPLETED, FlowerRun, find_run, flwr_line, server_log
from server.ops.folder import Folder
from server.ops.tail import FAILURE, Tail, plain, sentence
from shared.errors import FederationError

Say = Callable[[str], None]

PROGRESS_POLL_S = 0.5
STATE_POLL_S = 2.0
# As long as a SuperLink may take to come back, with the run still in its database.
LOST_S = 300.0
LOG_LINES = 20

FINISHED, FAILED, DETACHED = 0, 1, 130


def follow(folder: Folder, tail: Tail, number: int, say: Say) -> int:
    """Print a run's progress until it ends or Ctrl-C detaches.

    Args:
        folder: of the federation.
        tail: of the run's progress.
        number: Flower's.
        say: takes lines for the operator.

    Returns:
        exit status: 0 when the run finished, 1 when it failed or was stopped, 130 when detached.

    Raises:
        FederationError: if the SuperLink stays away for five minutes.
        RunError: if it has lost the run.
    """
    try:
        run, told = _until_end(folder, tail, number, say)
    except KeyboardInterrupt:
        stop = flwr_line(folder, "stop", str(number))
        say(
            "Detached; the run goes on.\n"
            f"  look at it:  tacit server status {folder.root}\n"
            f"  stop it:     {stop}"
        )
        return DETACHED
    if run.status == COMPLETED:
        return FINISHED
    log = flwr_line(folder, "log", str(number), "--show")
    details = "" if told else f": {run.details or 'no reason given'}"
    say(f"Run {run.status.removeprefix('finished:')}{details}")
    if not told:
        lines = [line for line in server_log(folder, number) if line.strip()][-LOG_LINES:]
        say("\n".join(("The ServerApp's log ends with:", *(f"  {plain(line)}" for line in lines))))
    say(f"All of its log: {log}")
    return FAILED


def _until_end(folder: Folder, tail: Tail, number: int, say: Say) -> tuple[FlowerRun, bool]:
    """The run when it has ended, and whether its progress told that it failed and why."""
    answered = looked = time.monotonic()
    lost = failed = False

    def tell() -> None:
        nonlocal failed
        for event in tail.read():
            failed = event.get("event") == FAILURE
            say(sentence(event))

    while True:
        tell()
        if time.monotonic() - looked >= STATE_POLL_S:
            looked = time.monotonic()
            try:
                run = find_run(folder, number)
            except FederationError as error:
                if looked - answered > LOST_S:
                    raise
                if not lost:
                    say(f"{error}; following again when it does")
                lost = True
            else:
                if lost:
                    say("The SuperLink answers again.")
                answered, lost = looked, False
                if not run.going:
                    tell()
                    return run, failed
        time.sleep(PROGRESS_POLL_S)

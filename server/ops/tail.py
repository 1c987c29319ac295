"""Reads the progress that a run's ServerApp writes, as it grows, and tells it to a person."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

FILE = "progress.jsonl"
# Events that say how a run ended.
FINISHED = "finished"
FAILURE = "failed"

_HASH = re.compile(r"[0-9a-f]{64}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Tail:
    """Reads the events that were added to a run's progress file since the last look.

    Args:
        directory: of the run.
        from_end: pass over what is there already.
    """

    def __init__(self, directory: Path, from_end: bool = False) -> None:
        self._path = directory / FILE
        self._offset = self._size() if from_end else 0

    def read(self) -> list[dict[str, Any]]:
        """New events, in order; a line that is not whole yet waits for the next look."""
        if self._size() <= self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def last_event(directory: Path) -> dict[str, Any] | None:
    """The newest event of a run; None before the first."""
    events = Tail(directory).read()
    return events[-1] if events else None


def sentence(event: dict[str, Any]) -> str:
    """One line for a person: time, event, figures. Text from organisations cannot steer the screen.

    A round is told as ``round 3 of 25``.
    """
    figures = {k: v for k, v in event.items() if k not in ("event", "at")}
    name = str(event.get("event", "?"))
    if name == "round" and "round" in figures:
        total = figures.pop("rounds", None)
        name = f"round {figures.pop('round')}" + ("" if total is None else f" of {total}")
    words = [f"{key.replace('_', ' ')} {_figure(value)}" for key, value in figures.items()]
    line = f"{_clock(event.get('at'))}  {name}" + (f": {', '.join(words)}" if words else "")
    return plain(line)


def plain(line: str) -> str:
    """Text without colours and other controls of a terminal."""
    return "".join(c if c.isprintable() else " " for c in _COLOUR.sub("", line))


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value[:12]
    return value if isinstance(value, str) else json.dumps(value)


def _clock(at: Any) -> str:
    try:
        moment = (
            datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(float(at))
        )
    except (TypeError, ValueError):
        return str(at)
    return moment.astimezone().strftime("%H:%M:%S")


def _parse(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that a crash has cut short, of which nothing can be told."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

"""What a check found: one line for the operator, with the cure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shared.errors import TacitError

State = Literal["ok", "warning", "failed", "skipped"]
OK: State = "ok"
WARNING: State = "warning"
FAILED: State = "failed"
SKIPPED: State = "skipped"


@dataclass(frozen=True)
class Outcome:
    """One check.

    Attributes:
        name: what was looked at.
        state: ``failed`` keeps the organisation from taking part; ``skipped`` was not looked at.
        sentence: what was found.
        cure: what to do; empty where nothing is to be done.
    """

    name: str
    state: State
    sentence: str
    cure: str = ""


def judged(name: str, check: Callable[[], Outcome], cure: str = "") -> Outcome:
    """A check's outcome; an error that it meets is one, too."""
    try:
        return check()
    except TacitError as error:
        return Outcome(name, FAILED, str(error), cure)

"""Looking at one check of ``tacit client check``, and changing what it looks at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.outcomes import Outcome
from client.readiness import outcomes, scene

Tacit = Callable[..., Any]


def found(made: Any, name: str, quick: bool = True) -> Outcome:
    """The outcome of one check."""
    seen = scene(made.org, made.node, None, None, quick)
    return next(one for one in outcomes(seen) if one.name == name)


def amend(made: Any, tacit: Tacit, old: str, new: str) -> None:
    """Change the policy, on record."""
    replace(made.org / "policy.toml", old, new)
    assert tacit("policy", "amend", str(made.org)).status == 0


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

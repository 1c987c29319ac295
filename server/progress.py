"""The progress of a run as lines of JSON, for whoever follows it from another process."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from server.observers import Observer, PrivateEvaluation, RoundReport, observed_by
from shared.adapters import Arrays
from shared.chain import now
from shared.plan import PrivacyPlan


class ProgressLog(Observer):
    """Appends one line per event; each has ``event``, ``at`` (ISO 8601, UTC) and its figures.

    Args:
        path: of the file; a resumed run goes on with it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, event: str, **figures: Any) -> None:
        """Append an event."""
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, "at": now(), **figures}) + "\n")

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        self.write("planned", plan=plan.sha256, organisations=organisations)

    def statistics_ready(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self.write("statistics", items=len(arrays["keys"]), top_items=len(arrays["top"]))

    def refused(self, round_number: int, organisation: str, reason: str) -> None:
        self.write("refused", round=round_number, organisation=organisation, reason=reason)

    def round_finished(self, report: RoundReport) -> None:
        self.write(
            "round",
            round=report.round,
            rounds=report.rounds,
            replies=report.replies,
            update_norm=report.update_norm,
            reliability=report.reliability,
            seconds=round(report.seconds, 3),
        )

    def delivered(self, organisations: Sequence[str]) -> None:
        self.write("delivered", organisations=list(organisations))

    def evaluated(self, evaluation: PrivateEvaluation) -> None:
        self.write("evaluated", hr=evaluation.hr, ndcg=evaluation.ndcg, users=evaluation.users)

    def finished(self, adapter: Arrays, reliability: float) -> None:
        self.write("finished", reliability=reliability)


@contextmanager
def following(path: Path) -> Iterator[None]:
    """Write what happens in the block to ``path``; also that it failed, and why."""
    log = ProgressLog(path)
    log.write("started")
    try:
        with observed_by(log):
            yield
    except Exception as error:
        log.write("failed", reason=str(error) or type(error).__name__)
        raise

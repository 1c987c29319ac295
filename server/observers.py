"""Side effects of a federation (progress, evaluation, records), kept out of its loop."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.adapters import Arrays
from shared.plan import PrivacyPlan


@dataclass(frozen=True)
class RoundReport:
    """What the server knows of a finished round.

    Attributes:
        round, rounds: this one, and how many there will be.
        replies: updates that were averaged.
        update_norm: L2 norm of the mean update.
        seconds: wall time of the round.
        adapter: after it.
        reliability: share of signal in the updates so far, in [0, 1].
    """

    round: int
    rounds: int
    replies: int
    update_norm: float
    seconds: float
    adapter: Arrays
    reliability: float


@dataclass(frozen=True)
class PrivateEvaluation:
    """Ranking quality that left through a mechanism.

    Attributes:
        hr, ndcg: estimates at the cut-off; the noise may take them out of [0, 1].
        hr_deviation, ndcg_deviation: standard deviation that the noise gives them.
        users: noised number of users that were evaluated.
    """

    hr: float
    ndcg: float
    hr_deviation: float
    ndcg_deviation: float
    users: float


class Observer:
    """Is told of each stage of a federation, in order; what it does not override passes by."""

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        """The plan is calibrated; nothing has left yet."""

    def statistics_ready(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """The statistics are delivered."""

    def refused(self, round_number: int, organisation: str, reason: str) -> None:
        """A reply could not be used; the run goes on without it."""

    def delivered(self, organisations: Sequence[str]) -> None:
        """These organisations hold the adapter."""

    def round_finished(self, report: RoundReport) -> None:
        """A round is aggregated and checkpointed."""

    def evaluated(self, evaluation: PrivateEvaluation) -> None:
        """The organisations' noised sums of ranking quality, added up."""

    def finished(self, adapter: Arrays, reliability: float) -> None:
        """The adapter that was delivered, and its share of signal."""


_observers: list[Observer] = []


@contextmanager
def observed_by(*observers: Observer) -> Iterator[None]:
    """Federations that run inside the block report to ``observers``."""
    _observers.extend(observers)
    try:
        yield
    finally:
        for observer in observers:
            _observers.remove(observer)


def current() -> tuple[Observer, ...]:
    """Who is to be told."""
    return tuple(_observers)

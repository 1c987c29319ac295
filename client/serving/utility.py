"""How well what was delivered ranks for this organisation's own users; the figures stay here.

Each user's newest item is ranked among all items that the user has not had, after the rest of the
history. It is computed once per delivery, in a thread of its own, when somebody first asks.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from client.data.store import read_store
from client.recommend.own_pairs import with_own_pairs
from client.recommend.recommender import Recommender
from shared.errors import TacitError
from shared.metrics import Evaluation, evaluate
from shared.scoring import Blend, Ints, Scorer, Scores
from shared.splits import leave_one_out

LOGGER = logging.getLogger(__name__)

CUTOFF = 10
MOST_USERS = 1000
# A block holds the user model while requests wait for it.
USERS_PER_BLOCK = 16
SCORES_PER_BLOCK = 20_000_000
SEED = 0

Name = Literal["popularity", "statistics", "federation", "personalised"]


class Figure(BaseModel):
    """One way of ranking."""

    name: Name
    hr: float
    ndcg: float
    hr_error: float | None = Field(description="Standard error over users; None below two users.")
    ndcg_error: float | None


class Utility(BaseModel):
    """How well this organisation's users are served; never leaves it."""

    state: Literal["computing", "ready", "failed"]
    stamp: str = Field(description="Of the delivery.")
    users: int = Field(0, description="Evaluated.")
    cutoff: int = CUTOFF
    held_out: bool = Field(
        False, description="Whether training was kept from the items that are ranked."
    )
    figures: list[Figure] = Field(default_factory=list)


class SupersededError(TacitError):
    """Another delivery is asked about, or the service ends."""


class UtilityOf:
    """Figures of the delivery in use.

    Args:
        directory: of the organisation.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._answer: Utility | None = None
        self._thread: threading.Thread | None = None

    def of(self, recommender: Recommender) -> Utility:
        """What is known now; begins to compute it where nobody has asked before."""
        stamp = recommender.delivery.stamp
        with self._lock:
            if self._answer is None or self._answer.stamp != stamp:
                self._answer = Utility(state="computing", stamp=stamp)
                self._thread = threading.Thread(
                    target=self._compute, args=(recommender,), name="utility", daemon=True
                )
                self._thread.start()
            return self._answer

    def stop(self) -> None:
        """Let the computation in hand end soon."""
        with self._lock:
            self._answer = None
            thread = self._thread
        if thread is not None:
            thread.join()

    def _compute(self, recommender: Recommender) -> None:
        stamp = recommender.delivery.stamp

        def goes_on() -> None:
            if self._answer is None or self._answer.stamp != stamp:
                raise SupersededError("another delivery is asked about")

        try:
            found = measured(recommender, kept_apart(self._directory, recommender), goes_on)
        except SupersededError:
            return
        except TacitError as error:
            LOGGER.error("the utility of delivery %s cannot be computed: %s", stamp, error)
            found = Utility(state="failed", stamp=stamp)
        with self._lock:
            if self._answer is not None and self._answer.stamp == stamp:
                self._answer = found


def measured(
    recommender: Recommender, held_out: bool, goes_on: Callable[[], None] = lambda: None
) -> Utility:
    """Hit rate and NDCG of popularity, of the statistics, and of all that was delivered.

    Where the organisation's own pairs count they are a figure of their own, counted anew without
    the items that are ranked.

    Args:
        recommender: to be measured.
        held_out: whether training was kept from the newest item of each user.
        goes_on: called between blocks of users; what it raises ends the computation.

    Raises:
        DataError: if no user has two interactions.
    """
    scorer, histories = recommender.scorer, recommender.histories
    personalised = None
    if recommender.delivered is not None:
        scorer = replace(scorer, statistics=recommender.delivered)
        personalised = with_own_pairs(scorer, histories.truncated(histories.lengths - 1))
    able = np.flatnonzero(histories.lengths >= 2)
    if len(able) > MOST_USERS:
        able = np.sort(np.random.default_rng(SEED).choice(able, MOST_USERS, replace=False))
    part = leave_one_out(histories.select(able), "test")
    whole = scorer.blend()
    ways: dict[Name, tuple[Scorer, Blend]] = {
        "popularity": (scorer, Blend(whole.popularity)),
        "statistics": (scorer, Blend(whole.popularity, whole.cooccurrence)),
        "federation": (scorer, whole),
    }
    if personalised is not None:
        ways["personalised"] = personalised, whole
    figures = []
    for name, (by, blend) in ways.items():

        def scores(users: Ints, by: Scorer = by, blend: Blend = blend) -> Scores:
            goes_on()
            return by.fused(part.history, users, blend=blend)

        items = len(recommender.catalogue)
        block = max(1, min(USERS_PER_BLOCK, SCORES_PER_BLOCK // items))
        figures.append(_figure(name, evaluate(scores, part, items, CUTOFF, block)))
    return Utility(
        state="ready",
        stamp=recommender.delivery.stamp,
        users=len(able),
        held_out=held_out,
        figures=figures,
    )


def kept_apart(directory: Path, recommender: Recommender) -> bool:
    """Whether training never saw the newest item of any user.

    True where the run had a share for private evaluation, for which every agent keeps it apart, and
    in a simulation's folder, which has what was trained on beside the whole.

    Raises:
        DataError: if that cannot be read.
    """
    if recommender.scorer.config.privacy.evaluation_share > 0.0:
        return True
    path = directory / "training.duckdb"
    if not path.exists():
        return False
    _, training = read_store(path)
    histories = recommender.histories
    if training.user_ids != histories.user_ids:
        return False
    return bool((training.lengths < np.maximum(histories.lengths, 1)).all())


def _figure(name: Name, found: Evaluation) -> Figure:
    hr_error, ndcg_error = found.standard_error("hr"), found.standard_error("ndcg")
    return Figure(
        name=name,
        hr=found.hr,
        ndcg=found.ndcg,
        hr_error=hr_error if np.isfinite(hr_error) else None,
        ndcg_error=ndcg_error if np.isfinite(ndcg_error) else None,
    )

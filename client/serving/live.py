"""The recommender in use: a new delivery is opened beside the old one, checked, and swapped in.

Whoever asks holds the recommender that was in use then, and ends with it. A delivery that cannot be
used is refused, and the old one stays.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np

from client.recommend.query import Query
from client.recommend.recommender import Recommender
from client.serving.metrics import Metrics
from shared.errors import RunError, TacitError

LOGGER = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
CHECKED_USERS = 8
CHECKED_ITEMS = 3


class Live:
    """The recommender in use, and the thread that watches for another.

    Args:
        stamped: changes with whatever a recommender is made of; empty where nothing was delivered.
        opened: a recommender of what is there now.
        metrics: counts swaps and refusals.
        look_every_s: between two looks at the delivery.
    """

    def __init__(
        self,
        stamped: Callable[[], str],
        opened: Callable[[], Recommender],
        metrics: Metrics,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._stamped = stamped
        self._opened = opened
        self._metrics = metrics
        self._look_every_s = look_every_s
        self._present: Recommender | None = None
        self._refused = False
        self._taken = ""
        self._seen = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deliveries", daemon=True)

    def start(self) -> None:
        """Take up what is there, then watch."""
        self._seen = self._stamped()
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End the watch; a recommender that is being opened is opened to its end."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ready(self) -> bool:
        """Whether a recommender is in use."""
        return self._present is not None

    def recommender(self) -> Recommender:
        """The one in use.

        Raises:
            RunError: if nothing was delivered yet, or nothing that can be used.
        """
        if self._present is not None:
            return self._present
        if self._refused:
            # Why names files of this machine, which are no matter of whoever asks.
            raise RunError("what was delivered cannot be used; the service's log says why")
        raise RunError("the federation has delivered nothing yet; ask again after its first round")

    def look(self) -> None:
        """Take up another delivery if there is one that has come to rest."""
        stamp = self._stamped()
        rested, self._seen = stamp == self._seen, stamp
        # A delivery is several files, written one after the other.
        if not stamp or not rested or stamp == self._taken:
            return
        try:
            opened = self._opened()
            check(opened)
        # Whatever a delivery does, the service goes on with the one it has.
        except Exception as error:
            if self._stamped() != stamp:
                LOGGER.info("a delivery changed while it was being opened; it is opened again")
                return
            self._taken, self._refused = stamp, True
            sentence = str(error) if isinstance(error, TacitError) else type(error).__name__
            self._metrics.refused()
            kept = "the one before stays" if self.ready else "there is none before it"
            LOGGER.error("delivery %s is refused: %s; %s", stamp, sentence, kept)
            return
        self._taken, self._refused, self._present = stamp, False, opened
        self._metrics.swapped()
        LOGGER.info("delivery %s is in use: %s", stamp, _described(opened))

    def _watch(self) -> None:
        while not self._end.wait(self._look_every_s):
            try:
                self.look()
            except OSError as error:
                LOGGER.warning("the delivery cannot be looked at: %s", error)


def check(recommender: Recommender) -> None:
    """Try a recommender out on some users and on nobody.

    Raises:
        RunError: if a score is not finite, or the lists are empty though there are items.
        TacitError: whatever else goes wrong with it.
    """
    histories = recommender.histories
    chosen = np.linspace(0, len(histories) - 1, min(CHECKED_USERS, len(histories)), dtype=int)
    subjects: list[str | tuple[str, ...]] = [histories.user_ids[place] for place in chosen]
    query = Query(k=CHECKED_ITEMS, exclude_seen=False)
    for subject in [*subjects, ()]:
        found = recommender.recommend(subject, query)
        values = [value for line in found for value in (line.score, *line.parts.values())]
        if not found or not np.isfinite(values).all():
            raise RunError("its scores are not finite numbers; it is not used")


def _described(recommender: Recommender) -> str:
    delivery = recommender.delivery
    own = ", with own co-occurrence" if delivery.own_cooccurrence else ""
    if not delivery.adapter:
        return "statistics alone" + own
    return f"adapter of run {delivery.run or '(not named)'}, round {delivery.round}{own}"

"""Private evaluation at a client: sums of bounded scores over users, for one noised release."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shared.histories import PrivateHistories
from shared.ranking import GREATEST, evaluate_targets
from shared.scoring import Scorer, Targets
from shared.splits import NO_TARGET, leave_one_out
from shared.statistics import UNIT

Number = TypeVar("Number", np.float32, np.float64)

LARGE = GREATEST / 2


def evaluation_sum(
    scorer: Scorer, histories: PrivateHistories, cutoff: int
) -> npt.NDArray[np.float64]:
    """Sums over users of (hit, discounted gain, 1), ``[3] float64``; exact, so never released.

    Each entry of a user's row lies in [0, 1], so the row's norm is at most sqrt(3). A user with
    nothing held out has a zero row. One user's row depends on no other user: scores come from what
    the federation delivered and the user's own history.

    Args:
        scorer: with what was delivered.
        histories: whole ones; the last item of each is held out, which training never saw.
            Private. (A cut in time, taken from all users' times, would tie their rows together.)
        cutoff: k of hit and gain at k.
    """
    part = leave_one_out(histories, "test")
    if not (part.target != NO_TARGET).any():
        return np.zeros(3)
    # What was delivered may overflow for some histories and not for others: a failure would tell
    # which. Such scores are large, and that is all.
    side = replace(scorer.item_side, log_popularity=_tame(scorer.statistics.log_popularity))

    def targets(users: npt.NDArray[np.int64]) -> Targets:
        with np.errstate(over="ignore", invalid="ignore"):
            found = scorer.targets(part.history, users)
            directions = {"all": _tame(found.direction)}
            offsets = {"all": _tame(found.offset)}
        return Targets(found.prior, _tame(found.reach), directions, offsets)

    found = evaluate_targets(targets, side, part, cutoff)
    rows = np.stack([found.per_user("hr"), found.per_user("ndcg"), np.ones(len(found))], axis=1)
    return np.asarray(rows.clip(0.0, 1.0).sum(axis=0) * UNIT, dtype=np.float64)


def _tame(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    return np.nan_to_num(values, nan=0.0).clip(-LARGE, LARGE)

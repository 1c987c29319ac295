"""Which interactions may be learnt from, which are read at scoring, which one is the target."""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.histories import PrivateHistories

Part = Literal["validation", "test"]
Protocol = Literal["leave-one-out", "temporal"]

NO_TARGET = -1
VALIDATION_CUT = 0.8
TEST_CUT = 0.9


@dataclass(frozen=True)
class Split:
    """One part of an evaluation protocol. Private, like the histories it comes from.

    Row ``u`` of all three is the same user, in the order of the histories that were split.

    Attributes:
        train: what may be learnt from; the same for validation and test, so that settings chosen
            on validation never saw either target.
        history: what is read when the target is scored; everything before the target.
        target: ``[users] int64`` place in the catalogue of the item to be ranked, or -1
            (``NO_TARGET``) for a user who is not evaluated.
        rating: ``[users] float32`` that the user gave the target, NaN where there is none; None
            where the data has no ratings.
    """

    train: PrivateHistories
    history: PrivateHistories
    target: npt.NDArray[np.int64]
    rating: npt.NDArray[np.float32] | None = None


def leave_one_out(histories: PrivateHistories, part: Part) -> Split:
    """The last item of every user is the test target, the one before it the validation target.

    ``train`` is all but the last two interactions for both parts, ``history`` is all before the
    target. A user with nothing before the target has none: test needs two interactions,
    validation three.

    Ties: "last" is the last in the row. Among interactions of one user at the same time that is
    the one furthest down the input (the order of ``PrivateHistories``).
    """
    held_out = 1 if part == "test" else 2
    place = histories.lengths - held_out
    return Split(
        train=histories.truncated(histories.lengths - 2),
        history=histories.truncated(place),
        target=_items_at(histories, place, place >= 1),
        rating=_ratings_at(histories, place, place >= 1),
    )


def temporal(histories: PrivateHistories, part: Part) -> Split:
    """One cut in time for all users, so that nobody's future is learnt from.

    Two cuts lie where 80% (validation) and 90% (test) of all interactions are before them.
    ``train`` is every interaction before the validation cut, for both parts. ``history`` is what
    a user had before the part's cut, the target is the first item at or after it; a validation
    target must also lie before the test cut. Users without a history or without such an item have
    no target. Histories are not updated between the cut and the target: as in real life, a model
    delivered at the cut knows what was known then.

    Ties: a cut is the time of the interaction at place ``floor(share * interactions)`` in order of
    time, and *every* interaction at exactly that time is after it. So at most 80% and 90% lie
    before, fewer where many share the time of the cut. Within a user, interactions at the same time
    keep the order of the input; the first one is the target.

    Raises:
        DataError: if the times do not separate the parts (nothing lies before the validation cut,
            or both cuts fall on one time).
    """
    times = np.sort(histories.times)
    if not len(times):
        raise DataError(
            "temporal split: no interactions to split; give histories with interactions"
        )
    validation_cut = times[int(VALIDATION_CUT * len(times))]
    test_cut = times[int(TEST_CUT * len(times))]
    if not times[0] < validation_cut < test_cut:
        raise DataError(
            f"temporal split: the first interaction is at {times[0]:.0f} s, the validation cut at "
            f"{validation_cut:.0f} s and the test cut at {test_cut:.0f} s; expected each later "
            "than the one before. Too many interactions share one time: use finer times, or "
            "evaluation.protocol = 'leave-one-out'"
        )
    before_validation = _count_before(histories, validation_cut)
    before_test = _count_before(histories, test_cut)
    place, end = (
        (before_test, histories.lengths) if part == "test" else (before_validation, before_test)
    )
    present = (place >= 1) & (place < end)
    return Split(
        train=histories.truncated(before_validation),
        history=histories.truncated(place),
        target=_items_at(histories, place, present),
        rating=_ratings_at(histories, place, present),
    )


def split(histories: PrivateHistories, protocol: Protocol, part: Part) -> Split:
    """The part of a protocol as ``evaluation.protocol`` names it.

    Raises:
        DataError: if a temporal split cannot be made (see ``temporal``).
    """
    match protocol:
        case "leave-one-out":
            return leave_one_out(histories, part)
        case "temporal":
            return temporal(histories, part)
        case _:
            assert_never(protocol)


def _items_at(
    histories: PrivateHistories, place: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    target = np.full(len(histories), NO_TARGET, dtype=np.int64)
    target[present] = histories.items[(histories.offsets[:-1] + place)[present]]
    return target


def _ratings_at(
    histories: PrivateHistories, place: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32] | None:
    if histories.ratings is None:
        return None
    rating = np.full(len(histories), np.nan, dtype=np.float32)
    rating[present] = histories.ratings[(histories.offsets[:-1] + place)[present]]
    return rating


def _count_before(histories: PrivateHistories, cut: float) -> npt.NDArray[np.int64]:
    running = np.concatenate([[0], np.cumsum(histories.times < cut)]).astype(np.int64)
    return running[histories.offsets[1:]] - running[histories.offsets[:-1]]

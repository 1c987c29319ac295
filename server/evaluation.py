"""What the server makes of noised evaluation sums."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from server.observers import PrivateEvaluation
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import Mechanism

# A reply this many deviations beyond the size that its organisation declares is not honest.
REACH = 8.0


def check_evaluation(reply: Reply, mechanism: Mechanism) -> None:
    """Refuse sums of another shape, that are not finite or beyond what users and noise explain.

    Raises:
        FederationError: says what was found.
    """
    values = reply.arrays.get("values")
    if set(reply.arrays) != {"values"} or values is None or values.shape != (3,):
        raise FederationError(f"{reply.name}: an evaluation is one array of 3 values")
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise FederationError(f"{reply.name}: the evaluation's values are no finite float32")
    most = reply.declared_users + REACH * mechanism.deviation
    # The declared size may lag behind the true one; ten times it does not.
    if np.abs(values).max() > 10.0 * most:
        raise FederationError(
            f"{reply.name}: an evaluation sum of {np.abs(values).max():.0f} from "
            f"{reply.declared_users} declared users"
        )


def private_evaluation(replies: Sequence[Reply], mechanism: Mechanism) -> PrivateEvaluation:
    """Hit rate and NDCG of all organisations from their noised sums; see ``evaluation_of``."""
    sums = np.sum([reply.arrays["values"].astype(np.float64) for reply in replies], axis=0)
    return evaluation_of(sums, mechanism.deviation * math.sqrt(len(replies)))


def evaluation_of(sums: npt.NDArray[np.float64], deviation: float) -> PrivateEvaluation:
    """Hit rate and NDCG from the noised sums of hits, gains and users.

    The deviations are of first order: that of a quotient x / n with noise of deviation s on both is
    ``s / n * sqrt(1 + (x / n)^2)``.

    Raises:
        FederationError: if the noised number of users is not positive.
    """
    hits, gains, users = (float(value) for value in sums)
    if users <= 0.0:
        raise FederationError(
            "the noised number of evaluated users is not positive: the evaluation's share of the "
            "budget is too small for so few users; raise privacy.evaluation_share"
        )
    noise = deviation / users
    hr, ndcg = hits / users, gains / users
    return PrivateEvaluation(
        hr, ndcg, noise * math.hypot(1.0, hr), noise * math.hypot(1.0, ndcg), users
    )

"""A lower bound on epsilon from the scores of canaries, with its confidence.

A score is what a canary pushed, in clipping norms: around 1 if it entered, around 0 if it did not.
An adversary who is shown as many of either and says "entered" above a threshold is right with a
probability of at most ``Phi(mu / 2)`` under Gaussian differential privacy with mu (Dong, Roth and
Su 2022, definition 2.6; audits by it: Nasr et al. 2023, arXiv 2302.07956). So the Clopper-Pearson
limit of the share of right answers bounds mu from below. The two kinds of answer are right with
different probabilities; a sum of such trials strays less than a binomial of their mean (Hoeffding
1956), so the limit holds. The threshold lies halfway and was fixed before any score was seen.

From mu of one release to epsilon of all of them one assumption is made: that each is a
Poisson-sampled Gaussian, as the accountant assumes too, of the mu and the rate that were measured.
What that takes, shape, independence and sampling, is tested in ``audit.canary_checks``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from shared.accounting import COARSE_DISCRETISATION, Event, epsilon_pld, merged

THRESHOLD = 0.5
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scores:
    """Scores of the canaries of one kind of release.

    With all users in each step a canary has one score, its mean over the steps, and the steps count
    as one release; otherwise it has one a step.

    Attributes:
        kind: ``popularity``, ``cooccurrence`` or ``step``.
        entered: ``[n]`` scores of members that entered.
        absent: ``[m]`` scores of reserves.
        deviation: planned, of a score.
        sampling_rate: planned.
        releases: how many compose.
        draws: how often a member entered, of how many times that it could have.
    """

    kind: str
    entered: npt.NDArray[np.float64]
    absent: npt.NDArray[np.float64]
    deviation: float
    sampling_rate: float
    releases: int
    draws: tuple[int, int]

    def event(self) -> Event:
        """What was planned."""
        return Event(self.sampling_rate, self.deviation, self.releases)

    def limits(self) -> int:
        """How many confidence limits the bound takes from these scores."""
        return 1 if self.sampling_rate == 1.0 else 2


@dataclass(frozen=True)
class Measured:
    """Lower bounds for one kind of release, and what was planned.

    Attributes:
        kind: of release.
        mu, planned_mu: of one release at sampling rate 1; 0 where nothing can be said.
        sampling_rate, planned_sampling_rate: with which a user enters.
        releases: how many compose.
    """

    kind: str
    mu: float
    planned_mu: float
    sampling_rate: float
    planned_sampling_rate: float
    releases: int


@dataclass(frozen=True)
class EpsilonBound:
    """Lower bound on epsilon beside the claim.

    Attributes:
        where: the organisation, or all of them.
        claim: epsilon of what was planned for the releases that were recorded.
        low: lower bound at confidence ``CONFIDENCE``.
        above: whether the bound lies above the claim even at the confidence asked for; then the
            claim is wrong.
        parts: of which the bound is made.
    """

    where: str
    claim: float
    low: float
    above: bool
    parts: tuple[Measured, ...]


def bound_epsilon(
    where: str, scores: Sequence[Scores], delta: float, refuted_at: float
) -> EpsilonBound:
    """The bound at ``CONFIDENCE`` and whether it refutes the claim.

    Args:
        where: the organisation, or all of them.
        scores: one entry per kind of release.
        delta: at which.
        refuted_at: confidence that the claim's refutation takes, more than ``CONFIDENCE``.
    """
    claim = epsilon_pld([s.event() for s in scores], delta)
    parts = least(scores, CONFIDENCE)
    low = _epsilon(parts, delta)
    above = low > claim and _epsilon(least(scores, refuted_at), delta) > claim
    return EpsilonBound(where, claim, low, above, parts)


def least(scores: Sequence[Scores], confidence: float) -> tuple[Measured, ...]:
    """Lower bounds of every part that hold jointly with ``confidence`` (Bonferroni)."""
    error = (1.0 - confidence) / sum(s.limits() for s in scores)
    return tuple(
        Measured(
            s.kind,
            least_mu(s.entered, s.absent, error),
            1.0 / s.deviation,
            1.0 if s.sampling_rate == 1.0 else lower_limit(*s.draws, error),
            s.sampling_rate,
            s.releases,
        )
        for s in scores
    )


def least_mu(
    entered: npt.NDArray[np.float64], absent: npt.NDArray[np.float64], error: float
) -> float:
    """Lower bound on mu, at least 0, that is wrong with probability ``error``.

    Of the kind of which there are more, as many as of the other are taken, evenly spread.
    """
    count = min(len(entered), len(absent))
    if not count:
        return 0.0
    right = (_spread(entered, count) > THRESHOLD).sum() + (
        _spread(absent, count) <= THRESHOLD
    ).sum()
    share = lower_limit(int(right), 2 * count, error)
    return max(0.0, 2.0 * float(stats.norm.ppf(share)))


def lower_limit(successes: int, trials: int, error: float) -> float:
    """One-sided lower Clopper-Pearson limit of a proportion."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(error, successes, trials - successes + 1))


def _spread(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    return scores[np.arange(count) * len(scores) // count]


def _epsilon(parts: Sequence[Measured], delta: float) -> float:
    events = (Event(p.sampling_rate, 1.0 / p.mu, p.releases) for p in parts if p.mu > 0.0)
    # A coarse grid errs by 0.1% at most, small beside the width of the limits, and is ten times
    # faster: no two bounds have an event in common that a cache could keep.
    possible = [e for e in merged(events) if e.sampling_rate > 0.0]
    return epsilon_pld(possible, delta, COARSE_DISCRETISATION)

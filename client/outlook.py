"""What a budget buys: how many runs, at which epsilon each."""

from dataclasses import dataclass

from shared.accounting import Event, calibrate, epsilon_coarse
from shared.errors import PrivacyError
from shared.policy import Policy

RUNS = (1, 2, 5, 10, 25)


@dataclass(frozen=True)
class Share:
    """A way to spend a budget.

    Attributes:
        runs: one after the other, all alike.
        epsilon: of each by itself, at the budget's delta; all together keep to the budget.
    """

    runs: int
    epsilon: float


def outlook(policy: Policy) -> tuple[Share, ...]:
    """The budget, divided into more and more runs.

    Of runs that release over all users at once, as the default plan does. Such Gaussian releases
    add up in mu squared (Dong, Roth and Su 2022, corollary 3.3), so where one run's noise is sigma,
    n runs with sqrt(n) times that noise fit as well.

    Args:
        policy: with a budget.

    Raises:
        PrivacyError: if it has none, or no noise keeps to it.
    """
    budget = policy.budget
    if budget.epsilon is None:
        raise PrivacyError("the policy has no budget.epsilon: there is nothing to divide")
    sigma = calibrate(lambda scale: (Event(1.0, scale),), budget.epsilon, budget.delta)
    return tuple(
        Share(runs, epsilon_coarse([Event(1.0, sigma * runs**0.5)], budget.delta)) for runs in RUNS
    )

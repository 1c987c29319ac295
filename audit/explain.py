"""What an epsilon means for one person: how often any attacker can be right about them.

Differential privacy bounds every test of whether one person was in the data (Wasserman and Zhou
2010, theorem 2.4). For a bare (epsilon, delta) the bounds are those of Kairouz, Oh and Viswanath
(2015); for the releases of a ledger the whole trade-off is known and tighter (Dong, Roth and Su
2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from audit.report_words import joint_text, one_in_text, percent_text
from shared.accounting import (
    Events,
    discretisation_of,
    epsilon_checked,
    merged,
    privacy_losses,
    without_guarantee,
)
from shared.errors import PrivacyError
from shared.spending import Account, Contents
from shared.tradeoff import best_true_positive_rate
from shared.words import delta_text, epsilon_text, factor_text

FALSE_POSITIVE_RATES = (0.001, 0.01)
PRIORS = (0.01, 0.5)
LARGEST_EPSILON = 100.0
SOURCES = (
    "Wasserman and Zhou 2010, JASA 105(489); Kairouz, Oh and Viswanath 2015, ICML; Dong, Roth and "
    "Su 2022, JRSS B 84(1)."
)


@dataclass(frozen=True)
class Explanation:
    """Bounds on every attack against one person.

    Attributes:
        epsilon, delta: that are explained; epsilon is infinite without a guarantee.
        success: most that an attacker can find of those in the data, as a share, at the share of
            those not in the data that it wrongly accuses.
        right_guess: most often that a guess is right where as many are in the data as not.
        attacker: what they see, and who they may be.
    """

    epsilon: float
    delta: float
    success: Callable[[float], float]
    right_guess: float
    attacker: str = "The attacker sees everything that left"

    def believed(self, prior: float, false_positive_rate: float) -> float:
        """Most that an accusation can make somebody believe who believed ``prior`` before.

        Bayes' rule at the bound of ``success``: the share of the accused who are in the data.
        """
        found = prior * self.success(false_positive_rate)
        return found / (found + (1.0 - prior) * false_positive_rate)

    def curve(self, points: int = 41) -> list[tuple[float, float]]:
        """False-positive rates from 0 to 1, closer together near 0, and ``success`` at each."""
        rates = [(number / (points - 1)) ** 2 for number in range(points)]
        return [(rate, self.success(rate)) for rate in rates]


def explain_pair(epsilon: float, delta: float) -> Explanation:
    """What holds for every mechanism with this epsilon and delta, and is reached by one.

    Raises:
        PrivacyError: if they are none.
    """
    if not 0.0 <= epsilon <= LARGEST_EPSILON:
        raise PrivacyError(
            f"epsilon = {epsilon:g}: it must lie between 0 and {LARGEST_EPSILON:g}, above which it "
            "promises nothing"
        )
    if not 0.0 <= delta < 1.0:
        raise PrivacyError(f"delta = {delta:g}: it must be at least 0 and below 1")

    def success(rate: float) -> float:
        one_way = math.exp(epsilon) * rate + delta
        other_way = 1.0 - math.exp(-epsilon) * (1.0 - delta - rate)
        return min(one_way, other_way, 1.0)

    right_guess = (math.exp(epsilon) + delta) / (math.exp(epsilon) + 1.0)
    return Explanation(epsilon, delta, success, right_guess)


def explain_events(events: Events, delta: float) -> Explanation:
    """What holds for the releases of a ledger; epsilon is stated at ``delta``.

    Raises:
        PrivacyError: if the accountants disagree.
    """
    composed = merged(events)
    if without_guarantee(composed):
        return explain_nothing(delta)
    # The total variation distance is delta at an epsilon of 0.
    losses = privacy_losses(composed, discretisation_of(composed))
    apart = min(float(losses.get_delta_for_epsilon(0.0)), 1.0)
    return Explanation(
        epsilon_checked(composed, delta),
        delta,
        lambda rate: best_true_positive_rate(composed, rate),
        (1.0 + apart) / 2.0,
    )


def explain_ledger(contents: Contents) -> Explanation:
    """What holds for somebody who sees everything that left, whoever asked for it.

    Raises:
        PrivacyError: if the accountants disagree.
    """
    delta = contents.policy.budget.delta
    if not all(account.private for account in contents.accounts):
        return explain_nothing(delta)
    whole = Account(None, contents.spends, None, delta, contents.policy.trust.binds)
    made, colluders = explain_events(whole.events, delta), whole.sums.colluders
    if colluders is None or whole.binds == "alone":
        return made
    return replace(
        made,
        attacker=f"The attacker is {joint_text(colluders)} (against all others together epsilon is "
        f"{epsilon_text(whole.epsilon_alone)})",
    )


def explain_nothing(delta: float) -> Explanation:
    """What holds without a guarantee: nothing."""
    return Explanation(math.inf, delta, lambda rate: 1.0, 1.0)


def print_explanation(console: Console, explanation: Explanation) -> None:
    """A table and a paragraph in plain words; without a guarantee the paragraph alone."""
    if math.isinf(explanation.epsilon):
        console.print(paragraph(explanation), style="bold red", highlight=False)
        return
    table = Table(
        title=f"What epsilon {epsilon_text(explanation.epsilon)} at delta "
        f"{delta_text(explanation.delta)} allows any attacker",
        title_justify="left",
    )
    table.add_column("Wrongly accuses,\nof those not in the data")
    table.add_column("Finds at most,\nof those in the data", justify="right")
    for prior in PRIORS:
        table.add_column(
            f"An accused is in the data,\nif {percent_text(prior)} of all are", justify="right"
        )
    for rate in FALSE_POSITIVE_RATES:
        table.add_row(
            percent_text(rate),
            percent_text(explanation.success(rate)),
            *(percent_text(explanation.believed(prior, rate)) for prior in PRIORS),
        )
    console.print(table)
    console.print(paragraph(explanation), highlight=False)
    console.print(f"Sources: {SOURCES}", style="dim", highlight=False)


def paragraph(explanation: Explanation) -> str:
    """What the figures say, for somebody who is no mathematician."""
    if math.isinf(explanation.epsilon):
        return (
            "There is no guarantee: nothing bounds what an attacker can learn, up to who was in "
            "the data with what history."
        )
    rate, prior = FALSE_POSITIVE_RATES[0], PRIORS[0]
    slack = f", apart from a slack of {one_in_text(explanation.delta)}" if explanation.delta else ""
    return (
        f"{explanation.attacker}, knows everything about everybody else, and wants "
        "to know whether one person was in the data at all. Whatever they do and compute, what "
        "they see shifts their odds by a factor of at most "
        f"{factor_text(explanation.epsilon)}{slack}. Asked about people of whom as many are in the "
        f"data as not, they are right at most {percent_text(explanation.right_guess)} of the time; "
        "a coin is right 50% of the time, and asking people who tell the truth only that often "
        "would be right as often. Careful attackers who accuse only "
        f"{percent_text(rate)} of those not in the data find at most "
        f"{percent_text(explanation.success(rate))} of those who are; guessing finds "
        f"{percent_text(rate)}. A suspicion of {percent_text(prior)} becomes at most "
        f"{percent_text(explanation.believed(prior, rate))} by such an accusation. These are "
        "bounds for the worst case; known attacks stay below them."
    )

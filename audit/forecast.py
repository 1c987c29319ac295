"""What is still to be had for the rest of a budget: rounds against epsilon, and other settings."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit.report_words import left_text
from shared.accounting import (
    COARSE_DISCRETISATION,
    LARGEST_COUNT,
    Event,
    Events,
    discretisation_of,
    merged,
    mu_squared,
    privacy_losses,
)
from shared.errors import PrivacyError
from shared.spending import Account, Contents, running_epsilons
from shared.words import delta_text, epsilon_text, plural

NOISE_FACTORS = (0.5, 0.71, 1.41, 2.0)
RATE_FACTORS = (0.25, 0.5)
FEWEST_ROUNDS = 10
# Other settings are told to one part in so many.
PRECISION = 200
TABLE_ROWS = 10
POINTS_PER_ROW = 4
BAR_WIDTH = 36


@dataclass(frozen=True)
class Setting:
    """Adapter rounds of one kind.

    Attributes:
        sampling_rate, noise_multiplier: of a step.
        steps: private steps in a round.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def events(self, rounds: int) -> Events:
        """Cost of so many rounds."""
        return merged([Event(self.sampling_rate, self.noise_multiplier, rounds * self.steps)])


@dataclass(frozen=True)
class Alternative:
    """Another setting.

    Attributes:
        label: how it differs.
        setting: it.
        rounds: that fit into what is left of the budget.
        allowed: whether the policy in force lets so little noise pass.
    """

    label: str
    setting: Setting
    rounds: int
    allowed: bool


@dataclass(frozen=True)
class Forecast:
    """Rounds against epsilon.

    Attributes:
        account: whose budget it is.
        setting: of the latest adapter round.
        budget: most epsilon.
        fits: further rounds that fit.
        points: further rounds, and epsilon after them, with what was spent before.
        alternatives: the same budget under other settings.
    """

    account: Account
    setting: Setting
    budget: float
    fits: int
    points: Sequence[tuple[int, float]]
    alternatives: Sequence[Alternative]


def forecast(contents: Contents, rounds: int | None = None) -> Forecast:
    """Continue the latest adapter rounds of a ledger.

    Where federations have budgets of their own, that of the latest round's is continued.

    Args:
        contents: of the ledger.
        rounds: how far; by default a quarter further than what fits.

    Raises:
        PrivacyError: if the ledger has no adapter round or no guarantee, or too many rounds are
            asked for.
    """
    steps = [spend.intent for spend in contents.spends if spend.intent.mechanism == "step"]
    if not steps:
        raise PrivacyError(
            "the ledger has no adapter round, so there are no settings to continue; a forecast is "
            "made once a first round has run"
        )
    last = steps[-1]
    account = next(a for a in contents.accounts if a.federation in (None, last.federation))
    budget = account.budget
    if budget is None or not account.private:
        raise PrivacyError(
            "the ledger is not private, so there is no epsilon to forecast; tacit audit report "
            "says why"
        )
    # Of the noise that binds: in a secure sum that of all, or this organisation's own.
    setting = Setting(last.sampling_rate, last.event(account.binds).noise_multiplier, last.count)
    fits = _rounds_that_fit(account, budget, setting)
    least = contents.policy.mechanism.least_noise_multiplier
    most = rounds or min(max(FEWEST_ROUNDS, fits + fits // 4), LARGEST_COUNT // setting.steps)
    if most * setting.steps > LARGEST_COUNT:
        raise PrivacyError(
            f"{plural(most, 'round')} with {plural(setting.steps, 'step')} each: the accountants "
            f"are certain up to {LARGEST_COUNT:,} steps; ask for fewer rounds"
        )
    return Forecast(
        account,
        setting,
        budget,
        fits,
        _points(account, budget, setting, most, fits),
        [
            _alternative(label, other, account, budget, setting, fits, least)
            for label, other in _other_settings(setting)
        ],
    )


def print_forecast(console: Console, made: Forecast) -> None:
    """Tables of rounds with bars, and of other settings."""
    setting, account = made.setting, made.account
    figure = "" if account.sums.colluders is None else f" ({account.binds})"
    console.print(
        f"Spent: epsilon {epsilon_text(account.epsilon)}{figure} of {epsilon_text(made.budget)} "
        f"at delta "
        f"{delta_text(account.delta)}; {left_text(made.budget - account.epsilon)} is left. At "
        f"least {plural(made.fits, 'further round')} like the last one fit: sampling rate "
        f"{setting.sampling_rate:g}, noise multiplier {setting.noise_multiplier:.4g}, "
        f"{plural(setting.steps, 'step')} each.",
        highlight=False,
    )
    table = Table()
    table.add_column("Further rounds", justify="right")
    table.add_column("Epsilon", justify="right")
    table.add_column(f"Full width: the budget, {epsilon_text(made.budget)}", width=BAR_WIDTH)
    for rounds, epsilon in made.points[::POINTS_PER_ROW]:
        share = epsilon / made.budget
        over = rounds > made.fits
        bar = "█" * min(int(share * BAR_WIDTH), BAR_WIDTH)
        table.add_row(
            f"{rounds:,}",
            epsilon_text(epsilon),
            Text("over budget" if over else bar, style="red" if over else "cyan"),
        )
    console.print(table)
    others = Table(title="The rest of the budget under other settings", title_justify="left")
    for heading in ("", "Sampling rate", "Noise multiplier", "Further rounds"):
        others.add_column(heading, justify="right" if heading else "left")
    for other in made.alternatives:
        others.add_row(
            other.label,
            f"{other.setting.sampling_rate:g}",
            f"{other.setting.noise_multiplier:.4g}",
            f"{other.rounds:,}" if other.allowed else "too little noise for the policy",
        )
    console.print(others)
    console.print(
        "Epsilon and rounds err on the safe side, by 0.1% or so. What a setting does to the "
        "recommendations is not in the ledger: more noise or fewer users in a step cost utility.",
        style="dim",
        highlight=False,
    )


def _other_settings(setting: Setting) -> list[tuple[str, Setting]]:
    rate, sigma, steps = setting.sampling_rate, setting.noise_multiplier, setting.steps
    return [
        ("As in the latest round", setting),
        *(
            (f"Noise \N{MULTIPLICATION SIGN} {f:g}", Setting(rate, sigma * f, steps))
            for f in NOISE_FACTORS
        ),
        *(
            (f"Sampling rate \N{MULTIPLICATION SIGN} {f:g}", Setting(rate * f, sigma, steps))
            for f in RATE_FACTORS
        ),
    ]


def _alternative(
    label: str,
    other: Setting,
    account: Account,
    budget: float,
    latest: Setting,
    fits: int,
    least_noise: float,
) -> Alternative:
    allowed = other.noise_multiplier >= least_noise
    if other == latest or not allowed:
        return Alternative(label, other, fits if allowed else 0, allowed)
    # In mu squared, costs of many small releases add up.
    ratio = mu_squared(latest.events(1)[0]) / mu_squared(other.events(1)[0])
    rounds = _rounds_that_fit(account, budget, other, int(fits * ratio), PRECISION)
    return Alternative(label, other, rounds, allowed)


def _rounds_that_fit(
    account: Account, budget: float, setting: Setting, guess: int = 1, precision: int | None = None
) -> int:
    """Most rounds within the budget, on a coarse grid, which can only make it fewer.

    ``shared.calibration.steps_for`` takes a fine grid and seconds for each setting; here the losses
    of what was spent and of one round are made once.
    """
    cell = discretisation_of(merged([*account.events, *setting.events(1)]), COARSE_DISCRETISATION)
    before, one = privacy_losses(account.events, cell), privacy_losses(setting.events(1), cell)

    def fits(rounds: int) -> bool:
        composed = before.compose(one.self_compose(rounds))
        return float(composed.get_epsilon_for_delta(account.delta)) <= budget

    return largest(fits, LARGEST_COUNT // setting.steps, guess, precision)


def largest(
    fits: Callable[[int], bool], most: int, guess: int = 1, precision: int | None = None
) -> int:
    """Largest number from 1 to ``most`` that fits, where every smaller one does; 0 if none does.

    Args:
        fits: slow to say.
        most: not asked beyond.
        guess: where to begin.
        precision: stop within this fraction of the number below it; None is exact.
    """
    low, high = 0, most + 1
    asked = min(max(guess, 1), most)
    while high - low > (max(1, low // precision) if precision else 1):
        low, high = (asked, high) if fits(asked) else (low, asked)
        asked = min(2 * low, most) if high > most else (low + high) // 2
    return low


def _points(
    account: Account, budget: float, setting: Setting, most: int, fits: int
) -> list[tuple[int, float]]:
    parts = TABLE_ROWS * POINTS_PER_ROW
    rounds = sorted({round(most * part / parts) for part in range(parts + 1)})
    steps = [setting.events(after - before) for before, after in itertools.pairwise(rounds)]
    found = running_epsilons([account.events, *steps], account.delta)
    epsilons = [account.epsilon, *found[1:]]
    # Where the rounds are known to fit, the coarse grid's last thousandth is not shown.
    return [
        (n, min(epsilon, budget) if n <= fits else epsilon)
        for n, epsilon in zip(rounds, epsilons, strict=True)
    ]

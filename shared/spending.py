"""What the records of a ledger add up to: its policies, and what was spent of each budget."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from shared.accounting import (
    COARSE_DISCRETISATION,
    Events,
    discretisation_of,
    epsilon_checked,
    merged,
    privacy_losses,
    without_guarantee,
)
from shared.chain import Record, Sealed
from shared.entries import Amendment, Intent, Opening, Release, parse_entry
from shared.errors import PrivacyError
from shared.policy import Policy


@dataclass(frozen=True)
class Spend:
    """An intent, at its place in the ledger, and what left for it, as often as it was sent."""

    record: int
    at: str
    intent: Intent
    releases: Sequence[Release]


@dataclass(frozen=True)
class Account:
    """One budget and what was spent of it, in order.

    Attributes:
        federation: public key of the server that it is for; None for the budget of all.
        spends: of that budget.
        budget: most epsilon; None without noise.
        delta: at which epsilon counts.
    """

    federation: str | None
    spends: Sequence[Spend]
    budget: float | None
    delta: float

    @property
    def events(self) -> Events:
        """Cost of everything spent."""
        return merged(spend.intent.event() for spend in self.spends)

    @property
    def last_run(self) -> Events:
        """Cost of what the newest run has spent so far."""
        run = self.spends[-1].intent.run if self.spends else ""
        return merged(s.intent.event() for s in self.spends if s.intent.run == run)

    @property
    def private(self) -> bool:
        """Whether all of it has noise of its own in full, which nobody can repeat."""
        return all(s.intent.private and s.intent.noise_share == 1.0 for s in self.spends)

    @cached_property
    def epsilon(self) -> float:
        """Spent, by PLD and confirmed by PRV; infinite where there is no guarantee.

        Raises:
            PrivacyError: if the accountants disagree.
        """
        return epsilon_checked(self.events, self.delta) if self.private else math.inf

    @cached_property
    def epsilon_after_another_run(self) -> float:
        """What will be spent once a run like the last one was added.

        Raises:
            PrivacyError: if the accountants disagree.
        """
        if not self.private:
            return math.inf
        return epsilon_checked([*self.events, *self.last_run], self.delta)


@dataclass(frozen=True)
class Contents:
    """What a ledger says.

    Attributes:
        opening: its first entry.
        policies: with the number and time of the record that put each in force, in order.
        spends: every intent.
    """

    opening: Opening
    policies: Sequence[tuple[int, str, Policy]]
    spends: Sequence[Spend]

    @property
    def policy(self) -> Policy:
        """In force."""
        return self.policies[-1][2]

    @property
    def accounts(self) -> list[Account]:
        """One for every budget: the one of all federations, or one each."""
        budget = self.policy.budget
        if budget.shared_by_federations:
            return [Account(None, self.spends, budget.epsilon, budget.delta)]
        asked = dict.fromkeys(spend.intent.federation for spend in self.spends)
        return [
            Account(
                name,
                [spend for spend in self.spends if spend.intent.federation == name],
                budget.epsilon,
                budget.delta,
            )
            for name in asked
        ]


def read_contents(stored: Sequence[Sealed]) -> Contents:
    """Everything in a ledger that can be understood, in order.

    Whether it can be believed is for ``audit.verify`` to say.

    Raises:
        PrivacyError: if there is no opening record with a policy.
    """
    opening: Opening | None = None
    policies: list[tuple[int, str, Policy]] = []
    intents: dict[int, tuple[str, Intent]] = {}
    sent: dict[int, list[Release]] = {}
    for number, sealed in enumerate(stored, start=1):
        try:
            record = Record.parse(sealed.text)
            entry = parse_entry(record)
            if isinstance(entry, Opening | Amendment):
                policies.append((number, record.at, Policy.from_record(entry.policy)))
        except PrivacyError:
            continue
        if isinstance(entry, Opening):
            opening = opening or entry
        elif isinstance(entry, Intent):
            intents[number] = (record.at, entry)
        elif isinstance(entry, Release):
            sent.setdefault(entry.intent, []).append(entry)
    if opening is None:
        raise PrivacyError(
            "the ledger has no opening record that can be read: it says neither whose it is nor "
            "what was allowed; tacit audit verify lists its faults"
        )
    spends = [Spend(n, at, intent, sent.get(n, ())) for n, (at, intent) in intents.items()]
    return Contents(opening, policies, spends)


def running_epsilons(parts: Sequence[Events], delta: float) -> list[float]:
    """Epsilon after each part in turn, by PLD on a coarse grid: at most 0.1% or so too high.

    Each part is composed onto those before, so that a long ledger costs what its parts cost.

    Args:
        parts: merged events each.
        delta: at which.
    """
    whole = merged(itertools.chain(*parts))
    if without_guarantee(whole):
        return [math.inf] * len(parts)
    cell = discretisation_of(whole, COARSE_DISCRETISATION)
    composed = privacy_losses((), cell)
    epsilons = []
    for part in parts:
        composed = composed.compose(privacy_losses(part, cell))
        epsilons.append(float(composed.get_epsilon_for_delta(delta)))
    return epsilons

"""What the records of a ledger add up to: its policies, and what was spent of each budget."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from shared.plan import Aggregation, Noise
from shared.policy import Policy
from shared.trust import withstood


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
        binds: the figure that the budget counts, ``joint`` or ``alone``.
    """

    federation: str | None
    spends: Sequence[Spend]
    budget: float | None
    delta: float
    binds: str

    @property
    def events(self) -> Events:
        """Cost of everything spent, by the figure that binds."""
        return self.part(self.spends)

    @property
    def last_run(self) -> Events:
        """Cost of what the newest run has spent so far, by the figure that binds."""
        run = self.spends[-1].intent.run if self.spends else ""
        return self.part([s for s in self.spends if s.intent.run == run])

    def part(self, spends: Sequence[Spend], binds: str = "") -> Events:
        """Cost of some of it, by the figure that binds or the one given."""
        return merged(spend.intent.event(binds or self.binds) for spend in spends)

    @property
    def private(self) -> bool:
        """Whether all of it has noise that nobody can repeat, in full or in a secure sum."""
        if self.binds == "joint" and self.sums.colluders == -1:
            return False
        return all(
            s.intent.private
            and (s.intent.noise_share == 1.0 or s.intent.aggregation == Aggregation.SECURE)
            for s in self.spends
        )

    @property
    def sums(self) -> "Sums":
        """How what was spent was added up."""
        return sums_of([spend.intent for spend in self.spends])

    @property
    def epsilon(self) -> float:
        """Spent, by the figure that binds; infinite where there is no guarantee.

        Raises:
            PrivacyError: if the accountants disagree.
        """
        return self.epsilon_alone if self.binds == "alone" else self.epsilon_joint

    @cached_property
    def epsilon_joint(self) -> float:
        """Against the server and so many others as ``sums`` says, by PLD, confirmed by PRV."""
        return self._epsilon("joint")

    @cached_property
    def epsilon_alone(self) -> float:
        """Where everybody else is against this organisation, by PLD, confirmed by PRV."""
        return self._epsilon("alone")

    def _epsilon(self, binds: str) -> float:
        if not replace(self, binds=binds).private:
            return math.inf
        return epsilon_checked(self.part(self.spends, binds), self.delta)

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
class Sums:
    """How releases of several organisations were added up.

    Attributes:
        secure, simulated, plain: how many releases: the server saw their sum alone; a noise for the
            sum was simulated; it saw what each organisation sent.
        least: fewest organisations in any secure sum; 0 without one.
        colluders: other organisations that may join hands with the server before the joint figure
            fails; -1 where it holds against no server; None where no noise was shared.
    """

    secure: int
    simulated: int
    plain: int
    least: int
    colluders: int | None


def sums_of(intents: Sequence[Intent]) -> Sums:
    """How the releases of intents were added up."""
    secure = [i for i in intents if i.aggregation == Aggregation.SECURE]
    simulated = sum(i.noise == Noise.SHARED for i in intents if i.aggregation != Aggregation.SECURE)
    return Sums(
        len(secure),
        simulated,
        len(intents) - len(secure) - simulated,
        min((i.least_participants for i in secure), default=0),
        withstood(intents),
    )


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
        budget, binds = self.policy.budget, self.policy.trust.binds
        if budget.shared_by_federations:
            return [Account(None, self.spends, budget.epsilon, budget.delta, binds)]
        asked = dict.fromkeys(spend.intent.federation for spend in self.spends)
        return [
            Account(
                name,
                [spend for spend in self.spends if spend.intent.federation == name],
                budget.epsilon,
                budget.delta,
                binds,
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

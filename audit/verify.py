"""Verification of a ledger: chain, signatures, what others have seen, rules, and what was spent."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audit.bundle import LONGEST_LINE, Evidence
from audit.heads import Heads
from audit.rules import Reading
from shared.accounting import epsilon_checked, epsilon_prv, epsilon_rdp
from shared.chain import Anchor, Fault, Sealed, chain_faults, head_faults
from shared.errors import PrivacyError
from shared.spending import Sums, sums_of


@dataclass(frozen=True)
class Spent:
    """Epsilon of what one budget paid for.

    Attributes:
        federation: key of the server that asked; None for all together.
        pld: the figure that binds, confirmed by PRV.
        prv: by the independent accountant.
        rdp: a ceiling.
        joint: by PLD, against the server and so many others as ``Sums.colluders`` says.
        alone: by PLD, where everybody else is against the organisation.
    """

    federation: str | None
    pld: float
    prv: float
    rdp: float
    joint: float
    alone: float


@dataclass(frozen=True)
class Witness:
    """A server that has countersigned the ledger.

    Attributes:
        server_key: its public key.
        sequence: newest record that it has seen.
        at: when, by its clock.
    """

    server_key: str
    sequence: int
    at: str


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        organisation, declared_users: as the policy in force says; empty and 0 if none can be read.
        ledger: hash of its first record.
        public_key: of the organisation, as the first record names it.
        records, intents, releases, refusals: how many.
        bytes_out: of the arrays that left.
        first_at, last_at: times of the first and the newest record, by the organisation's clock.
        budget: most epsilon under the policy in force; None without noise.
        delta: at which epsilon is stated; None if no policy can be read.
        binds: the figure that the policy in force counts, ``joint`` or ``alone``; empty if none
            can be read.
        members: how many public keys it names as participants of secure sums.
        sums: how releases were added up.
        spent: of all federations together, then of each where they have budgets of their own;
            empty if epsilon cannot be stated.
        not_private: why epsilon is no guarantee; empty if it is.
        witnesses: servers that have seen the ledger.
        notices: what a reader should know and is no fault.
        faults: everything that is wrong; a sound ledger has none.
    """

    organisation: str
    declared_users: int
    ledger: str
    public_key: str
    records: int
    intents: int
    releases: int
    refusals: int
    bytes_out: int
    first_at: str
    last_at: str
    budget: float | None
    delta: float | None
    binds: str
    members: int
    sums: Sums
    spent: Sequence[Spent]
    not_private: Sequence[str]
    witnesses: Sequence[Witness]
    notices: Sequence[Fault]
    faults: Sequence[Fault]

    def as_json(self) -> dict[str, Any]:
        """For machines; an infinite epsilon is the text ``inf``."""
        value = asdict(self)
        for spent in value["spent"]:
            for name in ("pld", "prv", "rdp", "joint", "alone"):
                spent[name] = "inf" if spent[name] == float("inf") else spent[name]
        return {"sound": not self.faults, **value}


def verify_ledger(
    evidence: Evidence,
    key: str | None = None,
    server_key: str | None = None,
    heads: Heads | None = None,
) -> Verification:
    """Check everything that can be checked without the data.

    Args:
        evidence: the ledger as it was found.
        key: public key of the organisation, from somebody else than who gave the ledger. Without
            it a ledger that was written anew under another key looks sound.
        server_key: of the server whose word counts; None takes that of any server.
        heads: what a server has seen.
    """
    stored = evidence.stored
    reading = Reading(stored)
    anchors = [*evidence.anchors, *([] if heads is None else heads.anchors_of(stored))]
    found = [
        *evidence.faults,
        *_long_records(stored),
        *chain_faults(stored, key),
        *head_faults(stored, evidence.anchors, strict=True),
        *([] if heads is None else [*heads.faults, *_heads_faults(stored, reading, heads)]),
        *reading.faults,
    ]
    if server_key is not None and heads is not None:
        found += heads.foreign(server_key)
    spent: list[Spent] = []
    try:
        found += reading.budget_faults()
        spent = _spent(reading)
    except PrivacyError as error:
        found.append(Fault(0, f"epsilon cannot be stated: {error}"))
    if reading.uncounted:
        spent = []
        many = len(reading.uncounted)
        found.append(Fault(0, f"epsilon cannot be stated: {many} intents cannot be counted"))
    witnesses = _witnesses([*reading.witnesses.values(), *anchors], server_key)
    policy, opening = reading.policy, reading.opening
    return Verification(
        organisation=policy.organisation.name if policy else "",
        declared_users=policy.organisation.declared_users if policy else 0,
        ledger=stored[0].sha256 if stored else "",
        public_key=opening.public_key if opening else "",
        records=len(stored),
        intents=len(reading.intents) + len(reading.uncounted),
        releases=len(reading.releases),
        refusals=reading.refusals,
        bytes_out=sum(release.size_bytes for _, release in reading.releases),
        first_at=reading.first_at,
        last_at=reading.last_at,
        budget=policy.budget.epsilon if policy else None,
        delta=policy.budget.delta if policy else None,
        binds=policy.trust.binds if policy else "",
        members=len(policy.trust.members) if policy else 0,
        sums=sums_of([intent for _, intent in reading.intents]),
        spent=spent,
        not_private=reading.not_private(),
        witnesses=witnesses,
        notices=[*reading.notices, *_unseen(witnesses, len(stored))],
        faults=sorted(dict.fromkeys(found), key=lambda fault: fault.sequence),
    )


def _long_records(stored: Sequence[Sealed]) -> list[Fault]:
    return [
        Fault(place, f"is {len(sealed.text)} characters long, more than any real record")
        for place, sealed in enumerate(stored, start=1)
        if len(sealed.text) > LONGEST_LINE
    ]


def _heads_faults(stored: Sequence[Sealed], reading: Reading, heads: Heads) -> list[Fault]:
    ledger = stored[0].sha256 if stored else ""
    key = reading.opening.public_key if reading.opening else ""
    name = reading.policy.organisation.name if reading.policy else ""
    faults = [
        Fault(
            0,
            f"the server knows {seen.name!r} by another ledger, {seen.head.ledger[:12]}, up to "
            f"record {seen.head.sequence}: this one was made in its place",
        )
        for seen in heads.newest_of_others(ledger, key, name)
    ]
    mine = [seen.head for seen in heads.sightings if seen.head.ledger == ledger]
    if not mine:
        faults.append(Fault(0, "the server's heads hold none of this ledger"))
    return [*faults, *head_faults(stored, mine)]


def _spent(reading: Reading) -> list[Spent]:
    if reading.policy is None:
        return []
    budget, binds = reading.policy.budget, reading.policy.trust.binds
    own = [] if budget.shared_by_federations else reading.federations()
    spent = []
    for federation in (None, *own):
        events = reading.events(federation, binds)
        spent.append(
            Spent(
                federation,
                epsilon_checked(events, budget.delta),
                epsilon_prv(events, budget.delta),
                epsilon_rdp(events, budget.delta),
                epsilon_checked(reading.events(federation, "joint"), budget.delta),
                epsilon_checked(reading.events(federation, "alone"), budget.delta),
            )
        )
    return spent


def _witnesses(anchors: Iterable[Anchor], server_key: str | None) -> list[Witness]:
    newest: dict[str, Witness] = {}
    for anchor in anchors:
        known = newest.get(anchor.server_key)
        if server_key in (None, anchor.server_key) and (
            known is None or known.sequence < anchor.sequence
        ):
            newest[anchor.server_key] = Witness(anchor.server_key, anchor.sequence, anchor.at)
    return sorted(newest.values(), key=lambda witness: -witness.sequence)


def _unseen(witnesses: Sequence[Witness], records: int) -> list[Fault]:
    seen = max((witness.sequence for witness in witnesses), default=0)
    if seen >= records:
        return []
    if not seen:
        return [
            Fault(0, "no server has countersigned this ledger: its end could be missing unnoticed")
        ]
    return [
        Fault(
            seen,
            f"is the newest that a server has countersigned: what was written after it, "
            f"{records - seen} records or more, could be missing unnoticed",
        )
    ]

"""What an organisation's ledger says: budget, what was spent, and everything that left."""

import itertools
import math

from pydantic import BaseModel, Field

from client.serving.ledger_view import Reading
from shared.accounting import epsilon_coarse
from shared.departures import Denial, Departure
from shared.spending import Account, Contents, Spend, running_epsilons

MOST_POINTS = 200
MOST_LINES = 1000


class Point(BaseModel):
    """Epsilon spent once a release was on record."""

    releases: int = Field(description="How many releases, this one included.")
    time: str
    run: str
    round: int
    mechanism: str
    epsilon: float


class Budget(BaseModel):
    """One budget, of one federation or of all."""

    federation: str | None = Field(description="None: the budget of all federations.")
    epsilon: float | None = Field(description="None: the policy sets none.")
    spent: float | None = Field(description="None: there is no bound; noise was missing.")
    remaining: float | None
    binds: str = Field(description="The figure that spent is: joint or alone.")
    joint: float | None = Field(
        description="Epsilon against the server and so many others as colluders says."
    )
    alone: float | None = Field(
        description="Epsilon where everybody else is against this organisation."
    )
    colluders: int | None = Field(
        description="Other organisations that may join hands with the server before joint fails; "
        "None: no noise was shared, and joint and alone are one."
    )
    secure: int = Field(description="Releases of which the server saw nothing but a sum.")
    least_participants: int = Field(description="Fewest organisations in such a sum.")
    points: list[Point]


class RunCost(BaseModel):
    """What one run has spent."""

    run: str
    federation: str
    first: str
    last: str
    releases: int
    size_bytes: int
    epsilon: float | None = Field(description="Of the run by itself; runs do not add up to more.")


class MechanismLine(BaseModel):
    """How a release was made private."""

    noise_multiplier: float
    sampling_rate: float
    steps: int
    noise_share: float


class Left(BaseModel):
    """Something that left."""

    record: int
    time: str
    run: str
    round: str
    kind: str
    mechanism: MechanismLine | None = Field(
        description="None: public fields, or keys and shares of a secure sum."
    )
    arrays: list[str]
    fields: list[str]
    size_bytes: int
    sha256: str
    again: bool = Field(description="The same answer left before; it costs nothing more.")


class Kept(BaseModel):
    """Something that was asked and refused."""

    record: int
    time: str
    request: str
    rule: str
    sentence: str


class Privacy(BaseModel):
    """Everything about one organisation's promise."""

    name: str
    unit: str
    adjacency: str
    delta: float
    purpose: str
    members: int = Field(description="Public keys that count as participants of secure sums.")
    budgets: list[Budget]
    runs: list[RunCost]
    releases: list[Left] = Field(description=f"The newest {MOST_LINES}, newest first.")
    releases_total: int
    refusals: list[Kept] = Field(description=f"The newest {MOST_LINES}, newest first.")
    refusals_total: int
    unreadable: int = Field(description="Records that cannot be read; tacit audit verify says why.")


def privacy_of(reading: Reading) -> Privacy:
    """The view of a ledger as it was read.

    Raises:
        PrivacyError: if the accountants disagree.
    """
    contents, egress = reading.contents, reading.egress
    intents = {spend.record: spend for spend in contents.spends}
    return Privacy(
        name=contents.policy.organisation.name,
        unit=contents.opening.unit,
        adjacency=contents.opening.adjacency,
        delta=contents.policy.budget.delta,
        purpose=contents.opening.purpose,
        members=len(contents.policy.trust.members),
        budgets=[_budget(account) for account in contents.accounts],
        runs=_runs(contents),
        releases=[
            _left(departure, intents.get(departure.release.intent))
            for departure in egress.departures[::-1][:MOST_LINES]
        ],
        releases_total=len(egress.departures),
        refusals=[_kept(denial) for denial in egress.denials[::-1][:MOST_LINES]],
        refusals_total=len(egress.denials),
        unreadable=len(egress.unread),
    )


def _budget(account: Account) -> Budget:
    spent = _finite(account.epsilon)
    remaining = None
    if spent is not None and account.budget is not None:
        remaining = max(0.0, account.budget - spent)
    sums = account.sums
    return Budget(
        federation=account.federation,
        epsilon=account.budget,
        spent=spent,
        remaining=remaining,
        binds=account.binds,
        joint=_finite(account.epsilon_joint),
        alone=_finite(account.epsilon_alone),
        colluders=sums.colluders,
        secure=sums.secure,
        least_participants=sums.least,
        points=[] if spent is None else _points(account, spent),
    )


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _points(account: Account, spent: float) -> list[Point]:
    spends = account.spends
    parts = min(len(spends), MOST_POINTS)
    ends = [len(spends) * part // parts for part in range(parts + 1)] if parts else [0]
    chunks = [account.part(spends[start:end]) for start, end in itertools.pairwise(ends)]
    # The coarse grid's last thousandth is not shown: the figure that binds is the last point.
    epsilons = [min(e, spent) for e in running_epsilons(chunks, account.delta)]
    epsilons[-1:] = [spent] if epsilons else []
    return [
        Point(
            releases=end,
            time=spends[end - 1].at,
            run=spends[end - 1].intent.run,
            round=spends[end - 1].intent.round,
            mechanism=spends[end - 1].intent.mechanism,
            epsilon=epsilon,
        )
        for end, epsilon in zip(ends[1:], epsilons, strict=True)
    ]


def _runs(contents: Contents) -> list[RunCost]:
    delta, binds = contents.policy.budget.delta, contents.policy.trust.binds
    by_run: dict[str, list[Spend]] = {}
    for spend in contents.spends:
        by_run.setdefault(spend.intent.run, []).append(spend)
    found = []
    for run, spends in by_run.items():
        account = Account(None, spends, None, delta, binds)
        found.append(
            RunCost(
                run=run,
                federation=spends[0].intent.federation,
                first=spends[0].at,
                last=spends[-1].at,
                releases=len(spends),
                size_bytes=sum(release.size_bytes for s in spends for release in s.releases),
                epsilon=epsilon_coarse(account.events, delta) if account.private else None,
            )
        )
    return found


def _left(departure: Departure, spend: Spend | None) -> Left:
    release = departure.release
    intent = None if spend is None else spend.intent
    # A request is named run/round/kind, a further attempt has its number behind; what a reply
    # without an intent belongs to stands only there.
    run, number, kind = [*departure.request.split("/"), "", ""][:3]
    return Left(
        record=departure.record,
        time=departure.at,
        run=run if intent is None else intent.run,
        round=number if intent is None else str(intent.round),
        kind=kind if intent is None else intent.mechanism,
        mechanism=None
        if intent is None
        else MechanismLine(
            noise_multiplier=intent.noise_multiplier,
            sampling_rate=intent.sampling_rate,
            steps=intent.count,
            noise_share=intent.noise_share,
        ),
        arrays=list(release.arrays),
        fields=list(release.fields),
        size_bytes=release.size_bytes,
        sha256=release.sha256,
        again=departure.again,
    )


def _kept(denial: Denial) -> Kept:
    return Kept(
        record=denial.record,
        time=denial.at,
        request=denial.request,
        rule=denial.refusal.rule,
        sentence=denial.refusal.sentence,
    )

"""The audit report: one HTML page that tells a data-protection officer what left at what cost."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from audit import charts, report_words
from audit.bundle import Evidence
from audit.verify import Verification, verify_ledger
from shared.accounting import epsilon_coarse
from shared.departures import list_egress
from shared.errors import PrivacyError
from shared.files import atomic_path
from shared.pages import page_environment
from shared.spending import Account, Contents, Spend, read_contents, running_epsilons

MOST_POINTS = 60
MOST_GROUPS = 60
MOST_RUN_DATES = 6
MOST_LINES = 50
MOST_FAULTS = 20
FILTERS = (
    "epsilon",
    "left",
    "delta",
    "one_in",
    "factor",
    "bytes",
    "time",
    "mechanism",
    "where",
    "joint",
    "sums",
)


Kind = tuple[str, str, float, float, float]


@dataclass(frozen=True)
class Group:
    """Releases of one mechanism with the same noise in one run.

    Attributes:
        run, mechanism, sampling_rate, noise_multiplier, noise_share: that they share.
        first_at, last_at: times of the first and the last intent.
        count: private steps, each a release of the mechanism.
        epsilon: of nothing but these; infinite without a guarantee.
        unsent: intents for which nothing left.
        size_bytes: that left.
    """

    run: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    noise_share: float
    first_at: str
    last_at: str
    count: int
    epsilon: float
    unsent: int
    size_bytes: int


@dataclass(frozen=True)
class Gauge:
    """A budget, for the eye.

    Attributes:
        account: of it.
        chart: epsilon over the releases; None where there is no epsilon or no release.
        after_another_run: epsilon once a run like the last one was added; None if the accountants
            cannot say.
    """

    account: Account
    chart: Markup | None
    after_another_run: float | None

    def percent(self, epsilon: float) -> float:
        """Width of an epsilon in the gauge, whose whole is the budget."""
        return 100.0 * min(epsilon / (self.account.budget or math.inf), 1.0)


@dataclass(frozen=True)
class Change:
    """Another policy put in force: number and time of its record, and what it changed."""

    sequence: int
    at: str
    differences: str


def write_report(evidence: Evidence, path: Path) -> Verification:
    """Verify a ledger and write the page; returns what the verification found.

    The page needs nothing from outside: styles and charts are in it. A ledger with faults gets a
    page too, which begins with them.
    """
    checked = verify_ledger(evidence)
    try:
        contents = read_contents(evidence.stored)
    except PrivacyError:
        contents = None
    counted = contents if checked.spent else None
    page = (
        page_environment(Path(__file__).parent, report_words, FILTERS)
        .get_template("report.html.j2")
        .render(
            checked=checked,
            private=not checked.not_private,
            contents=contents,
            gauges=[] if counted is None else [_gauge(account) for account in counted.accounts],
            groups=[] if counted is None else _groups(counted),
            changes=[] if contents is None else _changes(contents),
            egress=list_egress(evidence.stored),
            newest_sha256=evidence.stored[-1].sha256 if evidence.stored else "",
            populations=[] if contents is None else _populations(contents),
            most_groups=MOST_GROUPS,
            most_lines=MOST_LINES,
            most_faults=MOST_FAULTS,
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return checked


def _gauge(account: Account) -> Gauge:
    try:
        after = account.epsilon_after_another_run
    except PrivacyError:
        after = None
    return Gauge(account, _chart(account), after)


def _chart(account: Account) -> Markup | None:
    spends = account.spends
    if not spends or math.isinf(account.epsilon):
        return None
    parts = min(len(spends), MOST_POINTS)
    ends = [len(spends) * part // parts for part in range(parts + 1)]
    chunks = [account.part(spends[start:end]) for start, end in itertools.pairwise(ends)]
    # The coarse grid's last thousandth is not shown: the figure that binds is the last point.
    epsilons = [min(e, account.epsilon) for e in running_epsilons(chunks, account.delta)]
    epsilons[-1] = account.epsilon
    begun: dict[str, tuple[int, str]] = {}
    for before, spend in enumerate(spends):
        date = report_words.time_text(spend.at, date_only=True)
        begun.setdefault(spend.intent.run, (before, date))
    runs = list(begun.values()) if len(begun) <= MOST_RUN_DATES else []
    points = list(zip(ends[1:], epsilons, strict=True))
    figure = charts.spending_chart(points, account.budget, runs)
    # Markup is safe here: matplotlib escapes its labels, and the description is ours.
    return Markup(charts.inline(figure, "Epsilon spent, release by release, up to the budget"))


def _groups(contents: Contents) -> list[Group]:
    by_kind: dict[Kind, list[Spend]] = {}
    for spend in contents.spends:
        intent = spend.intent
        noise = intent.sampling_rate, intent.noise_multiplier, intent.noise_share
        by_kind.setdefault((intent.run, intent.mechanism, *noise), []).append(spend)
    policy = contents.policy
    return [
        _group(kind, Account(None, spends, None, policy.budget.delta, policy.trust.binds))
        for kind, spends in itertools.islice(
            by_kind.items(), max(0, len(by_kind) - MOST_GROUPS), None
        )
    ]


def _group(kind: Kind, account: Account) -> Group:
    spends = account.spends
    return Group(
        *kind,
        first_at=spends[0].at,
        last_at=spends[-1].at,
        count=sum(spend.intent.count for spend in spends),
        epsilon=epsilon_coarse(account.events, account.delta) if account.private else math.inf,
        unsent=sum(not spend.releases for spend in spends),
        size_bytes=sum(release.size_bytes for s in spends for release in s.releases),
    )


def _changes(contents: Contents) -> list[Change]:
    return [
        Change(sequence, at, policy.differences(before))
        for (_, _, before), (sequence, at, policy) in itertools.pairwise(contents.policies)
    ]


def _populations(contents: Contents) -> list[str]:
    """Fingerprints of the users over time, the first one first."""
    later = (spend.intent.population for spend in contents.spends)
    return list(dict.fromkeys([contents.opening.population, *later]))

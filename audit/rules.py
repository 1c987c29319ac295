"""Whether the entries of a ledger keep the rules: intents judged again, releases traced to them."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from shared.accounting import LARGEST_COUNT, Events, epsilon_checked, merged
from shared.chain import Anchor, Fault, Record, Sealed, canonical
from shared.entries import Amendment, Intent, Opening, Refusal, Release, parse_entry
from shared.errors import PrivacyError
from shared.grid import PLAIN_BITS, SECURE_BITS
from shared.judge import Past, judge
from shared.plan import Adjacency, Aggregation, Mechanism
from shared.policy import Policy
from shared.trust import UNMASK, phase_of, withstood

# Another machine's arithmetic may differ in the last digits of an epsilon that takes all.
ROUNDING = 1e-6
PURPOSES = ("federation", "experiment")
# Fields of a reply that the policy knows by another name; the round is the server's own figure.
NAME_IN_POLICY = {"head": "ledger_head"}
OF_THE_SERVER = {"round"}


class Reading:
    """What the entries of a ledger add up to, and what in them breaks a rule.

    Args:
        stored: records in order. Those that cannot be read are passed over; ``chain_faults`` names
            them.

    Attributes:
        faults, notices: by place of the record.
        opening: what the ledger promises; None if it cannot be read.
        policy: in force at the end.
        intents, releases: with the place of their records.
        refusals: how many.
        first_at, last_at: times of the first and the newest record.
        witnesses: newest countersignature of each server among the records.
        uncounted: places of intents that no accountant can count.
    """

    def __init__(self, stored: Sequence[Sealed]) -> None:
        self.faults: list[Fault] = []
        self.notices: list[Fault] = []
        self.opening: Opening | None = None
        self.policy: Policy | None = None
        self.intents: list[tuple[int, Intent]] = []
        self.releases: list[tuple[int, Release]] = []
        self.refusals = 0
        self.first_at = self.last_at = ""
        self.witnesses: dict[str, Anchor] = {}
        self.uncounted: list[int] = []
        self._stored = stored
        self._policy_sha256 = ""
        self._past = Past()
        self._latest: datetime | None = None
        self._terms: list[tuple[Policy, int]] = []
        self._reserved: dict[str, tuple[int, int, Intent]] = {}
        self._left: dict[str, str] = {}
        for place, sealed in enumerate(stored, start=1):
            try:
                record = Record.parse(sealed.text)
            except PrivacyError:
                continue
            self._read(place, record)
        self._interrupted()

    def events(self, federation: str | None, binds: str) -> Events:
        """Cost of all intents or of those that one federation asked for, joint or alone."""
        return self._events(len(self.intents), federation, binds)

    def federations(self) -> tuple[str, ...]:
        """Keys of the servers that asked for something."""
        return tuple(sorted({intent.federation for _, intent in self.intents}))

    def not_private(self) -> list[str]:
        """Why epsilon is no guarantee of what this organisation released; empty if it is."""
        reasons = {
            "no noise was added": [p for p, i in self.intents if i.noise_multiplier == 0.0],
            "noise or sampling came from a seed, and whoever knows it can take the noise off": [
                p for p, i in self.intents if not i.secret_randomness
            ],
            "this organisation added only a part of the noise, and no secure sum hid the part: "
            "epsilon holds for the sum of all organisations at most": [
                p
                for p, i in self.intents
                if i.noise_share < 1.0 and i.aggregation != Aggregation.SECURE
            ],
        }
        binds = "" if self.policy is None else self.policy.trust.binds
        if binds == "joint" and withstood(intent for _, intent in self.intents) == -1:
            reasons["the noise in a secure sum was not whole, and the budget counts joint"] = [
                place for place, intent in self.intents if withstood([intent]) == -1
            ]
        return [
            f"{reason} ({len(places)} intents, the first is record {places[0]})"
            for reason, places in reasons.items()
            if places
        ]

    def budget_faults(self) -> Iterator[Fault]:
        """The first intent under each policy after which its budget was passed."""
        bounds = [*(start for _, start in self._terms), len(self.intents)]
        for (policy, _), (start, end) in zip(self._terms, pairwise(bounds), strict=True):
            if end == start or policy.budget.epsilon is None:
                continue
            shared = policy.budget.shared_by_federations
            asked = sorted({intent.federation for _, intent in self.intents[start:end]})
            for federation in [None] if shared else asked:
                yield from self._over(policy, start, end, federation)

    def _over(
        self, policy: Policy, start: int, end: int, federation: str | None
    ) -> Iterator[Fault]:
        limit, delta, binds = policy.budget.epsilon, policy.budget.delta, policy.trust.binds

        def epsilon(count: int) -> float:
            return epsilon_checked(self._events(count, federation, binds), delta)

        if limit is None or epsilon(end) <= limit + ROUNDING:
            return
        counts = range(start + 1, end + 1)
        first = counts[
            bisect_left(counts, True, hi=end - start - 1, key=lambda n: epsilon(n) > limit)
        ]
        whose = "" if federation is None else f" of federation {federation[:12] or 'without a key'}"
        yield Fault(
            self.intents[first - 1][0],
            f"brings epsilon{whose} to {epsilon(first):.4f} ({binds}) at delta {delta:g}; the "
            f"budget in force was {limit:g}",
        )

    def _events(self, count: int, federation: str | None, binds: str) -> Events:
        return merged(
            intent.event(binds)
            for _, intent in self.intents[:count]
            if federation in (None, intent.federation)
        )

    def _read(self, place: int, record: Record) -> None:
        moment = _moment(record.at)
        self.first_at, self.last_at = self.first_at or record.at, record.at
        if moment is None:
            self._fault(place, f"its time {record.at[:40]!r} is none in UTC")
        elif self._latest is not None and moment < self._latest:
            self._notice(place, "its time lies before that of an earlier record: a clock was set")
        else:
            self._latest = moment
        try:
            entry = parse_entry(record)
        except PrivacyError as error:
            self._fault(place, str(error).removeprefix(f"record {record.sequence}: "))
            if record.kind == "intent":
                self.uncounted.append(place)
            return
        if isinstance(entry, Intent | Release | Refusal) and record.request is None:
            self._fault(place, f"a {record.kind} names no request")
        if isinstance(entry, Opening):
            self._open(place, entry)
        elif isinstance(entry, Amendment):
            self._put_in_force(place, entry)
        elif isinstance(entry, Intent):
            self._intent(place, record, entry, moment is not None)
        elif isinstance(entry, Release):
            self._release(place, record, entry)
        elif isinstance(entry, Refusal):
            self.refusals += 1
        else:
            self._anchor(place, record)

    def _open(self, place: int, opening: Opening) -> None:
        self.opening = self._past.opening = self.opening or opening
        if opening.unit != "user" or opening.adjacency != Adjacency.ADD_OR_REMOVE_ONE.value:
            self._fault(
                place,
                f"promises a guarantee for {opening.unit!r} under {opening.adjacency!r}; epsilon "
                f"is counted for users under {Adjacency.ADD_OR_REMOVE_ONE.value!r}",
            )
        if opening.purpose not in PURPOSES:
            self._fault(place, f"its purpose {opening.purpose!r} is none of {', '.join(PURPOSES)}")
        if opening.purpose == "experiment":
            self._notice(place, "an experiment: whoever ran it held the data of all organisations")
        self._put_in_force(place, opening)

    def _put_in_force(self, place: int, entry: Opening | Amendment) -> None:
        try:
            self.policy = Policy.from_record(entry.policy)
        except PrivacyError as error:
            self._fault(place, str(error))
            self.policy = None
            return
        self._terms.append((self.policy, len(self.intents)))
        self._policy_sha256 = self.policy.sha256
        if self._policy_sha256 != entry.policy_sha256:
            self._fault(place, "the policy's hash is not that of the policy it records")
        if isinstance(entry, Amendment):
            self._notice(place, "puts another policy in force")

    def _intent(self, place: int, record: Record, intent: Intent, timed: bool) -> None:
        request = str(record.request)
        earlier = self._reserved.setdefault(request, (record.sequence, place, intent))
        if earlier[1] != place:
            self._fault(place, f"request {request} has an intent already, record {earlier[0]}")
        problem = _uncountable(intent)
        if problem or not timed:
            self.uncounted.append(place)
            if problem:
                self._fault(place, problem)
            return
        if self.policy is None:
            self._fault(place, "no policy that can be read is in force")
        else:
            if intent.policy != self._policy_sha256:
                self._fault(place, "names another policy than the one in force")
            for refusal in judge(self.policy, intent, record.at, self._past):
                self._fault(place, f"the policy forbids it: [{refusal.rule}] {refusal.sentence}")
        began = self._past.plan(intent.run)
        if began not in (None, intent.plan):
            self._fault(place, f"run {intent.run} began under another plan, {str(began)[:12]}")
        if self.opening is not None and intent.population != self._population():
            self._notice(place, "the population is another one than before")
        self._past.add(intent, record.at)
        self.intents.append((place, intent))

    def _population(self) -> str:
        if self.intents:
            return self.intents[-1][1].population
        return "" if self.opening is None else self.opening.population

    def _release(self, place: int, record: Record, release: Release) -> None:
        request = str(record.request)
        self.releases.append((place, release))
        protocol = release.mechanism == "protocol"
        phase, masked = phase_of(request) if protocol else ("", "")
        if phase not in ("", UNMASK) and masked not in self._reserved:
            # Before anything is masked with them, keys and shares may be made anew.
            self._left[request] = release.sha256
        elif self._left.setdefault(request, release.sha256) != release.sha256:
            self._fault(place, f"request {request} was answered before with other arrays")
        if release.size_bytes < 0:
            self._fault(place, f"its size is {release.size_bytes} bytes")
        if self.policy is not None:
            named = {NAME_IN_POLICY.get(f, f) for f in release.fields} - OF_THE_SERVER
            forbidden = sorted(named - set(self.policy.egress.fields))
            if forbidden:
                self._fault(
                    place,
                    f"the policy forbids it: [egress.fields] {', '.join(forbidden)} left as public",
                )
        if release.mechanism == "none":
            if release.intent:
                self._fault(place, "a release of public fields alone names an intent")
            if release.arrays or release.size_bytes:
                self._fault(place, "arrays left that no mechanism made")
            return
        if protocol:
            self._protocol(place, release, phase, masked)
            return
        number, _, intent = self._reserved.get(request, (0, 0, None))
        if intent is None or release.intent != number:
            self._fault(
                place,
                f"a release by {release.mechanism} without an intent of its own before it: what "
                "left was not spent",
            )
        elif intent.mechanism != release.mechanism:
            self._fault(
                place,
                f"a release by {release.mechanism}; its intent, record {number}, is for "
                f"{intent.mechanism}",
            )

    def _protocol(self, place: int, release: Release, phase: str, masked: str) -> None:
        if not phase:
            self._fault(place, "arrays left for a secure sum, and its request is no phase of one")
        if release.intent:
            self._fault(place, "a reply of a secure sum's protocol names an intent")
        _, _, intent = self._reserved.get(masked, (0, 0, None))
        secure = intent is not None and intent.aggregation == Aggregation.SECURE
        if phase == UNMASK and not secure:
            self._fault(place, f"shares that unmask a sum left without an intent of {masked}")

    def _anchor(self, place: int, record: Record) -> None:
        try:
            anchor = Anchor.from_json(canonical(record.body))
        except PrivacyError as error:
            self._fault(place, str(error))
            return
        known = 0 < anchor.sequence < place
        if (
            anchor.ledger != self._stored[0].sha256
            or not known
            or self._stored[anchor.sequence - 1].sha256 != anchor.sha256
        ):
            self._fault(
                place,
                f"server {anchor.server_key[:12]} has seen record {anchor.sequence} as "
                f"{anchor.sha256[:12]}, which is not among the records before this one",
            )
            return
        kept = self.witnesses.get(anchor.server_key)
        if kept is None or kept.sequence < anchor.sequence:
            self.witnesses[anchor.server_key] = anchor

    def _interrupted(self) -> None:
        for request, (_, place, intent) in self._reserved.items():
            if request not in self._left:
                self._notice(
                    place,
                    f"{intent.mechanism} of request {request}: spent, nothing left: interrupted",
                )

    def _fault(self, place: int, sentence: str) -> None:
        self.faults.append(Fault(place, sentence))

    def _notice(self, place: int, sentence: str) -> None:
        self.notices.append(Fault(place, sentence))


def _uncountable(intent: Intent) -> str:
    try:
        secure = Aggregation(intent.aggregation) is Aggregation.SECURE
    except ValueError:
        return f"an intent that cannot be accounted: {intent.aggregation!r} is no way to add up"
    discrete = intent.distribution == "discrete"
    if secure and not discrete:
        return "an intent that cannot be accounted: a secure sum without discrete noise"
    try:
        Mechanism(
            intent.mechanism,
            intent.sampling_rate,
            intent.noise_multiplier,
            intent.sensitivity,
            intent.noise_share,
            intent.distribution,
            (SECURE_BITS if secure else PLAIN_BITS) if discrete else 0,
        )
    except PrivacyError as error:
        return f"an intent that cannot be accounted: {error}"
    if not 1 <= intent.count <= LARGEST_COUNT:
        return f"an intent that cannot be accounted: {intent.count} releases"
    return ""


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    exact = moment.utcoffset() == timedelta(0) and moment.isoformat(timespec="milliseconds") == text
    return moment if exact and moment.year >= 2000 else None

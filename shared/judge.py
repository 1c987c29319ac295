"""The judge of every request against an organisation's policy.

The same code decides before anything is computed and when an outsider checks the ledger, so that a
release that the policy forbade shows in either.
"""

from collections import Counter, deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain

from dp_accounting.gaussian_mechanism import get_sigma_gaussian

from shared.accounting import Event, Events, merged, mu_squared
from shared.entries import Intent, Opening, Refusal
from shared.plan import SENSITIVITY, Aggregation, Noise, PrivacyPlan
from shared.policy import Policy
from shared.trust import judge_trust, withstood

DAY = timedelta(days=1)
# The two figures of each release; ``TrustRules.binds`` says which one the budget counts.
BINDINGS = ("joint", "alone")
# Room for rounding where a plan takes exactly the share that the policy gives.
ROUNDING = 1.0 + 1e-9

PART_OF_BUDGET = {
    "popularity": "statistics_share",
    "cooccurrence": "statistics_share",
    "step": "adapter_share",
    "evaluation": "evaluation_share",
}


class Past:
    """What the intents of a ledger add up to; grows with each, so a long ledger is read once.

    Attributes:
        opening: of the ledger; None before it was read.
        withstood: organisations that may join hands with the server before the joint figure of some
            intent fails; None without noise for a secure sum.
    """

    def __init__(self) -> None:
        self.opening: Opening | None = None
        self.withstood: int | None = None
        self._counts: dict[str, _Tally] = {}
        self._parts: dict[tuple[str, str], float] = {}
        self._rounds: deque[tuple[datetime, tuple[str, int]]] = deque()
        self._of_the_day: Counter[tuple[str, int]] = Counter()
        self._runs: dict[str, tuple[str, str, _Tally]] = {}
        self._steps: Counter[str] = Counter()
        self._releases: Counter[tuple[str, str]] = Counter()
        self._begun: dict[tuple[str, int, str], int] = {}

    def add(self, intent: Intent, at: str) -> None:
        """Count one more intent, written ``at`` (ISO 8601)."""
        self._counts.setdefault(intent.federation, _Tally()).add(intent)
        part = PART_OF_BUDGET[intent.mechanism]
        for binds in BINDINGS:
            more = mu_squared(intent.event(binds))
            self._parts[part, binds] = self._parts.get((part, binds), 0.0) + more
        if intent.mechanism == "step":
            name = (intent.run, intent.round)
            self._rounds.append((datetime.fromisoformat(at), name))
            self._of_the_day[name] += 1
            self._steps[intent.run] += intent.count
        _, _, of_run = self._runs.setdefault(intent.run, (intent.plan, intent.federation, _Tally()))
        of_run.add(intent)
        if not self.repeats(intent):
            self._releases[intent.run, intent.mechanism] += intent.count
        self._begun.setdefault((intent.run, intent.round, intent.mechanism), intent.count)
        most = withstood([intent])
        if most is not None:
            self.withstood = most if self.withstood is None else min(self.withstood, most)

    def repeats(self, intent: Intent) -> bool:
        """Whether an intent is a further attempt at a secure sum: it takes no place in the plan.

        It costs like the first one: both may have left.
        """
        first = self._begun.get((intent.run, intent.round, intent.mechanism))
        return intent.aggregation == Aggregation.SECURE and first == intent.count

    def events(self, federation: str | None = None, binds: str = "joint") -> Events:
        """Everything spent, or what one federation asked for, by one of ``BINDINGS``."""
        chosen = self._counts if federation is None else {federation} & self._counts.keys()
        return merged(event for name in chosen for event in self._counts[name].events(binds))

    def mu_squared(self, part: str, binds: str = "joint") -> float:
        """Spent of one part of the budget, in mu squared, by one of ``BINDINGS``."""
        return self._parts.get((part, binds), 0.0)

    def plan(self, run: str) -> str | None:
        """Hash of the plan that a run began with; None for a run that has spent nothing."""
        return self._runs[run][0] if run in self._runs else None

    def federation(self, run: str) -> str | None:
        """Key of the server that a run belongs to; None for a run that has spent nothing."""
        return self._runs[run][1] if run in self._runs else None

    def run_events(self, run: str, binds: str = "joint") -> Events:
        """What a run has spent, by one of ``BINDINGS``."""
        return merged(self._runs[run][2].events(binds)) if run in self._runs else ()

    def releases(self, run: str, mechanism: str) -> int:
        """How often a run has released a mechanism, repeats aside; private steps for ``step``."""
        return self._releases[run, mechanism]

    def steps(self, run: str) -> int:
        """Private steps of a run, those of repeats among them."""
        return self._steps[run]

    def rounds_in_a_day(self, at: str, besides: tuple[str, int]) -> int:
        """Adapter rounds in the 24 hours before ``at``, not counting the round ``besides``."""
        since = datetime.fromisoformat(at) - DAY
        while self._rounds and self._rounds[0][0] <= since:
            _, name = self._rounds.popleft()
            self._of_the_day[name] -= 1
            if not self._of_the_day[name]:
                del self._of_the_day[name]
        return len(self._of_the_day) - (besides in self._of_the_day)


class _Tally:
    """How often each sampling rate and noise multiplier was released, by either figure."""

    def __init__(self) -> None:
        self._counts = {binds: Counter[tuple[float, float]]() for binds in BINDINGS}

    def add(self, intent: Intent) -> None:
        for binds, counts in self._counts.items():
            event = intent.event(binds)
            counts[event.sampling_rate, event.noise_multiplier] += event.count

    def events(self, binds: str) -> Iterator[Event]:
        for (rate, sigma), count in self._counts[binds].items():
            yield Event(rate, sigma, count)


def judge(
    policy: Policy, intent: Intent, at: str, past: Past, proposed: bool = False
) -> list[Refusal]:
    """Every rule but the budget's epsilon that an intent would break.

    Args:
        policy: in force.
        intent: about to be written, or found in a ledger.
        at: time of its writing, ISO 8601.
        past: what stood before it.
        proposed: whether it only proposes a plan, so that nobody takes part in it yet.
    """
    broken = chain(
        _egress(policy, intent),
        _noise(policy, intent),
        judge_trust(policy.trust, intent, past.opening, proposed),
        _sensitivity(policy, intent),
        _size(policy, intent),
        _history(policy, intent, at, past),
    )
    return [Refusal(rule, f"{intent.mechanism}: {sentence}") for rule, sentence in broken]


def judge_asker(policy: Policy, federation: str, plan: str | None) -> list[Refusal]:
    """Whether a server may ask at all, and for this plan.

    Args:
        policy: in force.
        federation: public key of the server.
        plan: hash of the plan that the request carries, or None.
    """
    found, rules = [], policy.federations
    if rules.allowed and federation not in rules.allowed:
        server = federation[:12] or "without a key"
        found.append(
            Refusal("federations.allowed", f"the server {server} is not among those that may ask")
        )
    if plan is not None and rules.plans and not plan.startswith(rules.plans):
        found.append(
            Refusal("federations.plans", f"the plan {plan[:12]} is not among those approved")
        )
    return found


def judge_plan(policy: Policy, plan: PrivacyPlan, intent: Intent, past: Past) -> list[Refusal]:
    """Whether an intent belongs to its plan, and the plan as a whole to the policy."""
    found = []
    most = policy.mechanism.most_steps_per_run
    if plan.steps > most:
        found.append(
            Refusal(
                "mechanism.most_steps_per_run",
                f"the plan has {plan.steps} steps; at most {most} are allowed",
            )
        )
    if plan.delta > policy.budget.delta:
        found.append(
            Refusal(
                "budget.delta",
                f"the plan counts epsilon at delta {plan.delta:g}; the budget counts it at "
                f"{policy.budget.delta:g}",
            )
        )
    owner = past.federation(intent.run)
    if owner not in (None, intent.federation):
        found.append(
            Refusal("run", f"run {intent.run} is another server's, {str(owner)[:12] or 'unnamed'}")
        )
    began = past.plan(intent.run)
    if began not in (None, plan.sha256):
        found.append(
            Refusal("plan", f"run {intent.run} began under another plan, {str(began)[:12]}")
        )
    elif not _has_further(plan, intent, past):
        found.append(
            Refusal(
                "plan",
                f"the plan of run {intent.run} has no further {intent.mechanism}: what it has was "
                "released already",
            )
        )
    if began is None:
        found += _planned_shares(policy, plan, past)
    return found


def _has_further(plan: PrivacyPlan, intent: Intent, past: Past) -> bool:
    planned = getattr(plan, intent.mechanism)
    sums = plan.aggregation.value, plan.least_participants
    if planned is None or sums != (intent.aggregation, intent.least_participants):
        return False
    if any(planned.event(intent.count, binds) != intent.event(binds) for binds in BINDINGS):
        return False
    released = past.releases(intent.run, intent.mechanism)
    return past.repeats(intent) or released + intent.count <= plan.releases(intent.mechanism)


def _planned_shares(policy: Policy, plan: PrivacyPlan, past: Past) -> list[Refusal]:
    taken: dict[str, float] = {}
    binds = policy.trust.binds
    for mechanism in plan.mechanisms:
        part, count = PART_OF_BUDGET[mechanism.name], plan.releases(mechanism.name)
        taken[part] = taken.get(part, 0.0) + mu_squared(mechanism.event(count, binds))
    return [
        Refusal(f"budget.{part}", f"the whole plan: {sentence}")
        for part, more in taken.items()
        for sentence in _share(policy, part, past.mu_squared(part, binds) + more)
    ]


def _share(policy: Policy, part: str, taken: float) -> Iterator[str]:
    epsilon, share = policy.budget.epsilon, float(getattr(policy.budget, part))
    if epsilon is None or share == 1.0:
        return
    whole = float(get_sigma_gaussian(epsilon, policy.budget.delta)) ** -2
    if taken / whole > share * ROUNDING:
        yield (
            f"with this, {taken / whole:.4f} of the budget would go to it (in mu squared); at "
            f"most {share:g} is allowed"
        )


def _egress(policy: Policy, intent: Intent) -> Iterator[tuple[str, str]]:
    allowed = policy.egress.releases
    if intent.mechanism not in allowed:
        yield "egress.releases", f"may not leave; allowed are {', '.join(allowed) or 'none'}"
    names_items = intent.mechanism in ("popularity", "cooccurrence")
    if names_items and "catalogue_keys" not in policy.egress.fields:
        yield "egress.fields", "names items, and catalogue_keys is not among the fields that may"
    for refusal in judge_asker(policy, intent.federation, intent.plan):
        yield refusal.rule, refusal.sentence


def _noise(policy: Policy, intent: Intent) -> Iterator[tuple[str, str]]:
    rules = policy.mechanism
    if intent.noise != rules.noise:
        yield "mechanism.noise", f"the plan's noise is {intent.noise}; allowed is {rules.noise}"
    if intent.distribution not in rules.distribution:
        allowed = " or ".join(rules.distribution)
        yield "mechanism.distribution", f"the noise is {intent.distribution}; allowed is {allowed}"
    if rules.noise == "none":
        return
    if not intent.secret_randomness and not rules.allow_repeatable_noise:
        yield (
            "mechanism.allow_repeatable_noise",
            "noise or sampling would come from a seed; whoever knows it takes the noise off again",
        )
    binds = policy.trust.binds
    sigma, least = intent.event(binds).noise_multiplier, rules.least_noise_multiplier
    # Written so that NaN is refused.
    if not sigma >= least or not sigma > 0.0:
        yield (
            "mechanism.least_noise_multiplier",
            f"the noise multiplier is {sigma:g} ({binds}); at least {least:g} is asked for",
        )
    least_share = rules.least_noise_share if intent.noise == Noise.SHARED else 1.0
    if not intent.noise_share >= least_share:
        yield (
            "mechanism.least_noise_share",
            f"only {intent.noise_share:g} of the noise's deviation would be added here; at least "
            f"{least_share:g} is asked for",
        )


def _sensitivity(policy: Policy, intent: Intent) -> Iterator[tuple[str, str]]:
    if intent.mechanism == "step":
        greatest = policy.mechanism.greatest_clipping_norm
        if not 0.0 < intent.sensitivity <= greatest:
            yield (
                "mechanism.greatest_clipping_norm",
                f"the clipping norm is {intent.sensitivity:g}; at most {greatest:g} is allowed",
            )
    elif intent.sensitivity != SENSITIVITY[intent.mechanism]:
        yield (
            "mechanism.sensitivity",
            f"the plan counts one user as {intent.sensitivity:g}; a row has norm "
            f"{SENSITIVITY[intent.mechanism]:g}",
        )


def _size(policy: Policy, intent: Intent) -> Iterator[tuple[str, str]]:
    most = policy.mechanism.most_steps_per_round if intent.mechanism == "step" else 1
    if not 1 <= intent.count <= most:
        yield (
            "mechanism.most_steps_per_round",
            f"{intent.count} steps in one round; between 1 and {most} are allowed",
        )


def _history(policy: Policy, intent: Intent, at: str, past: Past) -> Iterator[tuple[str, str]]:
    rules = policy.mechanism
    if intent.mechanism == "step":
        rounds = past.rounds_in_a_day(at, (intent.run, intent.round)) + 1
        if rounds > rules.most_rounds_per_day:
            yield (
                "mechanism.most_rounds_per_day",
                f"this would be round {rounds} within 24 hours; at most "
                f"{rules.most_rounds_per_day} are allowed",
            )
        steps = past.steps(intent.run) + intent.count
        if steps > rules.most_steps_per_run:
            yield (
                "mechanism.most_steps_per_run",
                f"this would be step {steps} of the run; at most {rules.most_steps_per_run} are "
                "allowed",
            )
    part, binds = PART_OF_BUDGET[intent.mechanism], policy.trust.binds
    if binds == "joint" and past.withstood is not None and past.withstood < policy.trust.colluders:
        yield (
            "trust.colluders",
            f"earlier releases withstand {max(past.withstood, 0)} colluders, and the budget counts "
            f"with {policy.trust.colluders}; set trust.binds = alone, or a smaller trust.colluders",
        )
    taken = past.mu_squared(part, binds) + mu_squared(intent.event(binds))
    for sentence in _share(policy, part, taken):
        yield f"budget.{part}", sentence

"""Whether a policy allows a release: its rules, and the budget by the cost of all together."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.accounting import Event, Events, contained, epsilon_checked, merged
from shared.entries import Intent, Refusal
from shared.errors import PrivacyError
from shared.judge import Past, judge, judge_plan
from shared.plan import PrivacyPlan
from shared.policy import Policy


@dataclass(frozen=True)
class Judgement:
    """What a plan means for a budget, before anything of it is done.

    Attributes:
        now: epsilon spent so far.
        planned: epsilon when all of the plan has run.
        budget: most epsilon, or None.
        delta: at which they are stated.
    """

    now: float
    planned: float
    budget: float | None
    delta: float

    @property
    def remains(self) -> float | None:
        """Budget less what will be spent; epsilons of single releases do not add up to it."""
        return None if self.budget is None else self.budget - self.planned


class BudgetJudge:
    """Judges intents by what stands in a ledger already.

    Composing everything anew for each round takes up to seconds, so the largest composition known
    to fit is kept: whatever is contained in it costs no more.

    Args:
        policy: in force.
        past: what stands already; grows as the ledger does.
    """

    def __init__(self, policy: Policy, past: Past) -> None:
        self._policy = policy
        self._past = past
        self._covered: dict[str | None, Events] = {}

    def judged(
        self, intents: Sequence[Intent], plan: PrivacyPlan, at: str, proposed: bool = False
    ) -> list[Refusal]:
        """Why intents of a plan would be refused: by rules, or else by the budget's epsilon.

        Args:
            intents: the one about to be written, or one of each mechanism of a plan.
            plan: that they belong to.
            at: time, ISO 8601.
            proposed: whether they only propose the plan.
        """
        broken: list[Refusal] = []
        for intent in intents:
            broken += judge(self._policy, intent, at, self._past, proposed)
            broken += judge_plan(self._policy, plan, intent, self._past)
        return list(dict.fromkeys(broken)) or self.refusals(intents[0], plan)

    def refusals(self, intent: Intent, plan: PrivacyPlan) -> list[Refusal]:
        """Why the budget's epsilon would be passed; a run's first intent counts its whole plan."""
        budget, binds = self._policy.budget, self._policy.trust.binds
        if budget.epsilon is None:
            return []
        federation = None if budget.shared_by_federations else intent.federation
        spent = self._past.events(federation, binds)
        after = merged([*spent, intent.event(binds)])
        begun = self._past.run_events(intent.run, binds)
        if begun and contained(after, self._covered.get(federation, ())):
            return []
        rest = _without(plan.events(binds=binds), begun)
        whole = merged([*spent, *rest])
        if not contained(after, whole):
            # A further attempt at a secure sum is beyond the plan.
            whole = merged([*after, *rest])
        try:
            planned = epsilon_checked(whole, budget.delta)
            if planned <= budget.epsilon:
                self._covered[federation] = whole
                return []
            what, epsilon = "the whole plan", planned
            if begun:
                what, epsilon = intent.mechanism, epsilon_checked(after, budget.delta)
                if epsilon <= budget.epsilon:
                    self._covered[federation] = after
                    return []
            now_it_is = epsilon_checked(spent, budget.delta)
        except PrivacyError as error:
            return [Refusal("accountants", str(error))]
        return [
            Refusal(
                "budget.epsilon",
                f"{what} would bring epsilon from {now_it_is:.3f} to {epsilon:.3f} at delta "
                f"{budget.delta:g}; the budget is {budget.epsilon:g}",
            )
        ]

    def judgement(self, plan: PrivacyPlan, run: str, binds: str | None = None) -> Judgement:
        """What a plan means for the budget: now, and when the rest of it has run.

        Args:
            plan: of the run.
            run: that may have begun.
            binds: by which figure; None takes the one that the policy says.
        """
        budget, figure = self._policy.budget, binds or self._policy.trust.binds
        spent = self._past.events(binds=figure)
        rest = _without(plan.events(binds=figure), self._past.run_events(run, figure))
        return Judgement(
            epsilon_checked(spent, budget.delta),
            epsilon_checked([*spent, *rest], budget.delta),
            budget.epsilon,
            budget.delta,
        )


def _without(whole: Events, part: Events) -> Events:
    counts = {(e.sampling_rate, e.noise_multiplier): e.count for e in part}
    return merged(
        Event(
            e.sampling_rate,
            e.noise_multiplier,
            max(0, e.count - counts.get((e.sampling_rate, e.noise_multiplier), 0)),
        )
        for e in whole
    )

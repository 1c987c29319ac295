"""Whether an organisation can take part in secure sums, and with whom it would."""

from pathlib import Path

from client.approval import public_key
from client.directory import read_policy
from client.outcomes import FAILED, OK, WARNING, Outcome
from shared.policy import Policy
from shared.tolerance import noise_share, untolerated
from shared.trust import ROUNDING

NAME = "secure sums"


def sums_possible(directory: Path) -> Outcome:
    """What the policy says of secure sums, and the key by which others name this organisation."""
    policy, own = read_policy(directory), public_key(directory)
    amend = f"change {directory / 'policy.toml'}, then: tacit policy amend {directory}"
    if policy.trust.simulated_sum:
        return Outcome(
            NAME,
            FAILED,
            "trust.simulated_sum is true: noise for a sum that nothing secures, which is for "
            "experiments alone",
            amend,
        )
    if policy.mechanism.noise != "shared":
        return Outcome(
            NAME,
            OK,
            f"noise is {policy.mechanism.noise}, so no other organisation has to be trusted; this "
            f"one's key is {own}",
        )
    problem = _contradiction(policy)
    if problem:
        return Outcome(NAME, FAILED, problem, amend)
    return _members(directory, policy, own)


def _contradiction(policy: Policy) -> str:
    """Rules that no plan can keep together, as a sentence; empty if there are none."""
    trust, rules = policy.trust, policy.mechanism
    if "discrete" not in rules.distribution:
        return "noise is shared, but mechanism.distribution lacks discrete, as secure sums have it"
    least = trust.least_participants
    problem = untolerated(least, least, trust.colluders)
    if problem:
        return f"trust: {problem}"
    share = noise_share(least, trust.colluders)
    if rules.least_noise_share > share * ROUNDING:
        return (
            f"mechanism.least_noise_share is {rules.least_noise_share:g}; where {least} "
            f"organisations take part and {trust.colluders} may collude, each adds {share:.3g}"
        )
    return ""


def _members(directory: Path, policy: Policy, own: str) -> Outcome:
    trust = policy.trust
    tell = (
        f"tell the others this organisation's key, {own}, by another way than the server, and name "
        f"theirs: tacit client approve {directory} --member KEY"
    )
    if not trust.members:
        return Outcome(
            NAME, FAILED, "no organisation is named, so every secure sum is refused", tell
        )
    if own not in trust.members:
        return Outcome(
            NAME,
            FAILED,
            "this organisation's own key is not among trust.members, so every sum is refused",
            f"tacit client approve {directory} --member {own}",
        )
    named, least = len(trust.members), trust.least_participants
    if named < least:
        return Outcome(
            NAME, FAILED, f"{named} organisations are named; {least} must be in a sum", tell
        )
    others = ", ".join(key[:12] for key in trust.members if key != own)
    sentence = (
        f"{least} or more of {named} organisations, up to {trust.colluders} colluders, the budget "
        f"binds {trust.binds}; with {others}; this one's key is {own}"
    )
    problem = untolerated(named, least, trust.colluders)
    if problem:
        return Outcome(
            NAME,
            WARNING,
            f"{sentence}; not with all of them at once ({problem})",
            "take away members that no longer take part, or raise trust.least_participants",
        )
    return Outcome(NAME, OK, sentence)

"""Whether a sum of several organisations is one, and only those count in it who are trusted to.

Noise that organisations share is whole only in their sum. What of it holds against whom: *joint*,
against the server and so many other organisations as hold hands with it, is the noise that the
others of the sum add; *alone*, against everybody else together, is the organisation's own.
"""

import functools
import re
from collections.abc import Iterable, Iterator

from shared.entries import Intent, Opening
from shared.plan import MECHANISMS, Aggregation, Noise
from shared.policy import TrustRules
from shared.tolerance import untolerated

PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
# Replies of a secure sum's phases besides the masked input, by their requests' names. As in
# ``shared.wire``, which loads Flower; whoever audits needs none of it.
PHASES = KEYS, SHARES, UNMASK = "keys", "shares", "unmask"
PHASE = re.compile(
    rf"([^/]+/[0-9]+)/({'|'.join(PHASES)})_({'|'.join(MECHANISMS)})((?:/[1-9][0-9]*)?)"
)
# Room for rounding where shares make exactly the planned noise.
ROUNDING = 1.0 + 1e-9


def judge_trust(
    trust: TrustRules, intent: Intent, opening: Opening | None, proposed: bool
) -> Iterator[tuple[str, str]]:
    """Every rule of whom to trust that an intent would break, with what was found.

    Args:
        trust: the rules in force.
        intent: about to be written, or found in a ledger.
        opening: of the ledger; None before there is one.
        proposed: whether it only proposes a plan, so that nobody takes part in it yet.
    """
    shared = intent.noise == Noise.SHARED
    if intent.aggregation != Aggregation.SECURE:
        if shared and not trust.simulated_sum:
            yield (
                "trust.simulated_sum",
                "noise for the sum of all, which nothing keeps the server from seeing in parts; "
                "plan aggregation.mode = secure or privacy.noise = own",
            )
        return
    least, number = intent.least_participants, len(set(intent.participants))
    if least < trust.least_participants:
        yield (
            "trust.least_participants",
            f"a sum of {least} organisations could be unmasked; at least "
            f"{trust.least_participants} are asked for",
        )
    if not proposed:
        fewest = max(least, trust.least_participants)
        if number < fewest:
            yield (
                "trust.least_participants",
                f"{number} organisations take part; at least {fewest} are asked for",
            )
        yield from _participants(trust, intent, opening)
    if not trust.members and (opening is None or opening.purpose != "experiment"):
        yield (
            "trust.members",
            "no organisation counts as a participant here, and a server could invent some; list "
            "the public keys of those that do",
        )
    if shared and trust.binds == "joint":
        most = most_colluders(intent.noise_share, least, least if proposed else number)
        if most < trust.colluders:
            yield (
                "trust.colluders",
                f"the noise of {least} organisations with {intent.noise_share:g} of the planned "
                f"deviation each withstands {max(most, 0)} colluders; it shall withstand "
                f"{trust.colluders}",
            )


def _participants(
    trust: TrustRules, intent: Intent, opening: Opening | None
) -> Iterator[tuple[str, str]]:
    named = set(intent.participants)
    # One key in two spellings would count for two.
    if len(named) != len(intent.participants) or not all(map(PUBLIC_KEY.fullmatch, named)):
        yield "trust.members", "a participant is named twice, or by what is no public key"
    if opening is not None and opening.public_key not in named:
        yield "trust.members", "this organisation is not among the participants"
    strangers = sorted(named - set(trust.members)) if trust.members else []
    if strangers:
        yield (
            "trust.members",
            f"{len(strangers)} of {len(named)} participants do not count as such, "
            f"{strangers[0][:12]} first",
        )


def phase_of(request: str) -> tuple[str, str]:
    """Which phase of a secure sum a request is of, and the request of its masked input.

    Returns:
        Two empty strings where it is of none.
    """
    found = PHASE.fullmatch(request)
    if found is None:
        return "", ""
    place, phase, mechanism, attempt = found.groups()
    return phase, f"{place}/{mechanism}{attempt}"


def withstood(intents: Iterable[Intent]) -> int | None:
    """``most_colluders`` of the weakest; None where none has noise for a secure sum."""
    return min(
        (
            most_colluders(i.noise_share, i.least_participants, len(set(i.participants)))
            for i in intents
            if i.noise == Noise.SHARED and i.aggregation == Aggregation.SECURE
        ),
        default=None,
    )


@functools.lru_cache(maxsize=1024)
def most_colluders(noise_share: float, least: int, participants: int) -> int:
    """Most organisations that may join hands with the server before the joint figure fails.

    Then the others still add the whole planned noise, and ``shared.tolerance`` holds.

    Args:
        noise_share: part of the planned deviation that each adds.
        least: fewest in a sum that is unmasked.
        participants: that exchanged keys.

    Returns:
        -1 where it holds against no server at all.
    """
    most = -1
    while (
        not untolerated(participants, least, most + 1)
        and noise_share**2 * (least - most - 1) * ROUNDING >= 1.0
    ):
        most += 1
    return most

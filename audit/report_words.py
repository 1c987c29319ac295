"""Numbers of an audit as a person reads them: what bounds a risk is never rounded in its favour."""

import math
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from shared.words import decimals, plural

if TYPE_CHECKING:
    from shared.spending import Sums

MECHANISMS = {
    "popularity": "How often each item was had",
    "cooccurrence": "Which items were had together",
    "step": "Adapter training steps",
    "evaluation": "Evaluation",
}


def left_text(left: float) -> str:
    """What is left of a budget, rounded down to three decimals; nothing where it was passed.

    >>> left_text(0.0019), left_text(-0.2)
    ('0.001', '0')
    """
    return decimals(max(left, 0.0), 3, ROUND_FLOOR)


def percent_text(share: float) -> str:
    """A probability that bounds a risk, rounded up to a hundredth of a percent.

    >>> percent_text(0.12341), percent_text(0.5), percent_text(1.2)
    ('12.35%', '50%', '100%')
    """
    return f"{decimals(100 * min(share, 1.0), 2)}%"


def one_in_text(delta: float) -> str:
    """Delta as one chance in so many.

    >>> one_in_text(0.0005), one_in_text(0.0003)
    ('1 in 2,000', '1 in 3,333')
    """
    return f"1 in {math.floor(1 / Decimal(repr(delta))):,}"


def time_text(at: str, date_only: bool = False) -> str:
    """A record's time for a reader; a time that is none stays as it stands.

    >>> time_text("2026-11-25T03:57:10.123+00:00"), time_text("soon")
    ('25 Nov 2026, 03:57 UTC', 'soon')
    """
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return at
    date = f"{moment.day} {moment:%b %Y}"
    return date if date_only else f"{date}, {moment:%H:%M} UTC"


def mechanism_text(name: str) -> str:
    """What a mechanism releases, in words."""
    return MECHANISMS.get(name, name)


def sums_text(sums: "Sums", members: int) -> str:
    """How releases were added up, and what of it rests on whom.

    Args:
        sums: of the ledger.
        members: public keys that the policy names as participants.
    """
    parts = []
    if sums.secure:
        who = (
            f"Only the {plural(members, 'key')} of the policy count in it"
            if members
            else "The policy names no keys, so the server could have invented organisations"
        )
        parts.append(
            f"{plural(sums.secure, 'release')} in a secure sum: the server sees nothing but the "
            f"sum of {sums.least} or more organisations. {who}"
        )
    if sums.simulated:
        parts.append(
            f"{plural(sums.simulated, 'release')} with noise for a sum that was only simulated"
        )
    if sums.plain or not parts:
        parts.append(
            f"{plural(sums.plain, 'release')} of its own: the server sees each, with its noise"
        )
    return ". ".join(parts)


def joint_text(colluders: int) -> str:
    """Against whom the joint figure holds.

    >>> joint_text(1), joint_text(0)
    ('the server and 1 other organisation at most, together', 'the server by itself')
    """
    if colluders < 0:
        return "nobody: too few organisations added noise"
    if not colluders:
        return "the server by itself"
    return f"the server and {plural(colluders, 'other organisation')} at most, together"


def where_text(sequence: int) -> str:
    """The place of a fault."""
    return f"Record {sequence:,}" if sequence else "The ledger as a whole"

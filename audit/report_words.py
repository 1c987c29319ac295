"""Numbers of an audit as a person reads them: what bounds a risk is never rounded in its favour."""

import math
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from shared.words import decimals

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


def where_text(sequence: int) -> str:
    """The place of a fault."""
    return f"Record {sequence:,}" if sequence else "The ledger as a whole"

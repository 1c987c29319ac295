"""Numbers of an audit as a person reads them: what bounds a risk is never rounded in its favour."""

import math
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

MECHANISMS = {
    "popularity": "How often each item was had",
    "cooccurrence": "Which items were had together",
    "step": "Adapter training steps",
    "evaluation": "Evaluation",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def epsilon_text(epsilon: float | None) -> str:
    """Epsilon rounded up to three decimals.

    >>> epsilon_text(7.9991), epsilon_text(math.inf), epsilon_text(None)
    ('8', 'no bound', 'no bound')
    """
    return "no bound" if epsilon is None or math.isinf(epsilon) else _decimals(epsilon, 3)


def left_text(left: float) -> str:
    """What is left of a budget, rounded down to three decimals; nothing where it was passed.

    >>> left_text(0.0019), left_text(-0.2)
    ('0.001', '0')
    """
    return _decimals(max(left, 0.0), 3, ROUND_FLOOR)


def percent_text(share: float) -> str:
    """A probability that bounds a risk, rounded up to a hundredth of a percent.

    >>> percent_text(0.12341), percent_text(0.5), percent_text(1.2)
    ('12.35%', '50%', '100%')
    """
    return f"{_decimals(100 * min(share, 1.0), 2)}%"


def delta_text(delta: float) -> str:
    """Delta rounded up to two significant digits, as a number times a power of ten."""
    exact = Decimal(repr(delta))
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), rounding=ROUND_CEILING)
    exponent = rounded.adjusted()
    power = str(exponent).translate(_SUPERSCRIPTS)
    return (
        f"{rounded.scaleb(-exponent).normalize():f}\N{NBSP}\N{MULTIPLICATION SIGN}\N{NBSP}10{power}"
    )


def one_in_text(delta: float) -> str:
    """Delta as one chance in so many.

    >>> one_in_text(0.0005), one_in_text(0.0003)
    ('1 in 2,000', '1 in 3,333')
    """
    return f"1 in {math.floor(1 / Decimal(repr(delta))):,}"


def factor_text(epsilon: float) -> str:
    """e to the power of epsilon, rounded up; to a power of ten from a million on.

    >>> factor_text(0.1), factor_text(8.0), factor_text(20.0)
    ('1.11', '2,981', '10⁹')
    """
    factor = Decimal(repr(epsilon)).exp()
    if factor >= 1_000_000:
        return f"10{str(factor.adjusted() + 1).translate(_SUPERSCRIPTS)}"
    return f"{factor.quantize(Decimal('0.01' if factor < 10 else '1'), rounding=ROUND_CEILING):,f}"


def bytes_text(size: int) -> str:
    """A size in B, kB or MB, in powers of a thousand.

    >>> bytes_text(0), bytes_text(13456), bytes_text(2_500_000)
    ('0 B', '13.5 kB', '2.5 MB')
    """
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:,.1f} kB" if size < 1_000_000 else f"{size / 1e6:,.1f} MB"


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


def plural(count: int, noun: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "record"), plural(1200, "record"), plural(2, "person", "people")
    ('1 record', '1,200 records', '2 people')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {many or noun + 's'}"


def mechanism_text(name: str) -> str:
    """What a mechanism releases, in words."""
    return MECHANISMS.get(name, name)


def where_text(sequence: int) -> str:
    """The place of a fault."""
    return f"Record {sequence:,}" if sequence else "The ledger as a whole"


def _decimals(value: float, places: int, rounding: str = ROUND_CEILING) -> str:
    rounded = Decimal(repr(value)).quantize(Decimal((0, (1,), -places)), rounding=rounding)
    return f"{rounded.normalize():,f}"

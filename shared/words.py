"""Numbers as a person reads them; what bounds a risk is never rounded in its favour."""

import math
from decimal import ROUND_CEILING, Decimal

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def epsilon_text(epsilon: float | None) -> str:
    """Epsilon rounded up to three decimals.

    >>> epsilon_text(7.9991), epsilon_text(math.inf), epsilon_text(None)
    ('8', 'no bound', 'no bound')
    """
    return "no bound" if epsilon is None or math.isinf(epsilon) else decimals(epsilon, 3)


def thousandths_text(epsilon: float) -> str:
    """Epsilon rounded up to three decimals, all of them written, for columns.

    >>> thousandths_text(7.99912), thousandths_text(8.0), thousandths_text(math.inf)
    ('8.000', '8.000', 'no bound')
    """
    return f"{math.ceil(epsilon * 1000) / 1000:.3f}" if math.isfinite(epsilon) else "no bound"


def delta_text(delta: float) -> str:
    """Delta rounded up to two significant digits, as a number times a power of ten."""
    if delta == 0.0:
        return "0"
    exact = Decimal(repr(delta))
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), rounding=ROUND_CEILING)
    exponent = rounded.adjusted()
    power = str(exponent).translate(SUPERSCRIPTS)
    return (
        f"{rounded.scaleb(-exponent).normalize():f}\N{NBSP}\N{MULTIPLICATION SIGN}\N{NBSP}10{power}"
    )


def factor_text(epsilon: float) -> str:
    """e to the power of epsilon, rounded up; to a power of ten from a million on.

    >>> factor_text(0.1), factor_text(8.0), factor_text(20.0)
    ('1.11', '2,981', '10⁹')
    """
    factor = Decimal(repr(epsilon)).exp()
    if factor >= 1_000_000:
        return f"10{str(factor.adjusted() + 1).translate(SUPERSCRIPTS)}"
    return f"{factor.quantize(Decimal('0.01' if factor < 10 else '1'), rounding=ROUND_CEILING):,f}"


def bytes_text(size: int) -> str:
    """A size in B, kB or MB, in powers of a thousand.

    >>> bytes_text(0), bytes_text(13456), bytes_text(2_500_000)
    ('0 B', '13.5 kB', '2.5 MB')
    """
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:,.1f} kB" if size < 1_000_000 else f"{size / 1e6:,.1f} MB"


def plural(count: int, noun: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "record"), plural(1200, "record"), plural(2, "person", "people")
    ('1 record', '1,200 records', '2 people')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {many or noun + 's'}"


def decimals(value: float, places: int, rounding: str = ROUND_CEILING) -> str:
    rounded = Decimal(repr(value)).quantize(Decimal((0, (1,), -places)), rounding=rounding)
    return f"{rounded.normalize():,f}"

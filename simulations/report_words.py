"""Numbers and sentences of the report, for a person to read; epsilon and delta never round down."""

from decimal import ROUND_CEILING, Decimal

from simulations.records import DatasetRecord, GuaranteeRecord, ResultRecord

FEDERATED = ("statistics", "adapter", "federation")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def epsilon_text(epsilon: float | None) -> str:
    """Epsilon with at most three decimals, rounded up; ``no bound`` for None.

    >>> epsilon_text(7.9991), epsilon_text(8.0), epsilon_text(None)
    ('8', '8', 'no bound')
    """
    if epsilon is None:
        return "no bound"
    rounded = Decimal(repr(epsilon)).quantize(Decimal("0.001"), rounding=ROUND_CEILING)
    return f"{rounded.normalize():f}"


def delta_text(delta: float) -> str:
    """Delta with two significant digits, rounded up, as a number times a power of ten."""
    if delta == 0.0:
        return "0"
    exact = Decimal(repr(delta))
    unit = Decimal((0, (1,), exact.adjusted() - 1))
    rounded = exact.quantize(unit, rounding=ROUND_CEILING)
    exponent = rounded.adjusted()
    mantissa = rounded.scaleb(-exponent).normalize()
    power = str(exponent).translate(_SUPERSCRIPTS)
    return f"{mantissa:f}\N{NBSP}\N{MULTIPLICATION SIGN}\N{NBSP}10{power}"


def factor_text(epsilon: float) -> str:
    """e to the power of epsilon, rounded up to a whole number.

    >>> factor_text(1.0), factor_text(8.0), factor_text(100.0)
    ('3', '2,981', '2.7e+43')
    """
    factor = Decimal(repr(epsilon)).exp()
    if factor >= 1_000_000:
        return f"{factor:.1e}"
    return f"{factor.quantize(Decimal(1), rounding=ROUND_CEILING):,}"


def signed_text(value: float) -> str:
    """A difference with four decimals and its sign.

    >>> signed_text(0.00512)
    '+0.0051'
    """
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def bytes_text(size: int) -> str:
    """A size in bytes, kB or MB, in powers of a thousand.

    >>> bytes_text(0), bytes_text(13456), bytes_text(2_500_000)
    ('0 B', '13.5 kB', '2.5 MB')
    """
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:,.1f} kB" if size < 1_000_000 else f"{size / 1e6:,.1f} MB"


def seconds_text(seconds: float) -> str:
    """A duration with a fitting precision.

    >>> seconds_text(0.4213), seconds_text(12.34), seconds_text(200), seconds_text(7300)
    ('0.42 s', '12.3 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    if round(seconds, 1) < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "user"), plural(1200, "user")
    ('1 user', '1,200 users')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def method_text(result: ResultRecord) -> str:
    """A method's label, apart from the same method without noise."""
    bare = result.method in FEDERATED and result.noise == "none"
    return f"{result.label}, no noise" if bare else result.label


def protection_text(result: ResultRecord) -> str:
    """What protects the users behind a row."""
    if result.private:
        simulated = ", one noise for the sum" if result.noise == "shared" else ""
        return f"ε = {epsilon_text(result.epsilon)}{simulated}"
    if result.method == "zero_shot":
        return "not trained"
    if result.method not in FEDERATED:
        return "none: histories pooled"
    return "none: no noise" if result.noise == "none" else "none: noise can be repeated"


def compared_text(name: str) -> str:
    """A compared method's name, for example ``federation (none)``, in words."""
    for noise, words in (("own", "own noise"), ("shared", "one noise"), ("none", "no noise")):
        name = name.replace(f" ({noise})", f", {words}")
    return name[:1].upper() + name[1:].replace("_", " ")


def release_text(what: str) -> str:
    """The name of a kind of release, as the plan has it, in words."""
    return {
        "popularity": "Popularity",
        "cooccurrence": "Co-occurrence",
        "step": "Adapter updates",
    }.get(what, what.replace("_", " ").capitalize())


def data_sentence(dataset: DatasetRecord) -> str:
    """What was trained on what by whom."""
    houses = plural(dataset.organisations, "organisation")
    counts = f"{plural(dataset.items, 'item')}, {plural(dataset.interactions, 'interaction')}"
    together = "trained one recommender together, none of them showing its histories to another"
    if dataset.organisations == 1:
        together = "trained a recommender"
    return f"{houses} with {plural(dataset.users, 'user')} of {dataset.name} ({counts}) {together}."


def guarantee_sentence(guarantee: GuaranteeRecord | None) -> str:
    """The guarantee in plain words."""
    if guarantee is None:
        return "No guarantee was written down, so none can be claimed."
    if not guarantee.private or guarantee.epsilon is None:
        return "What left them carries no privacy guarantee."
    what = "The sum of what they sent" if guarantee.noise == "shared" else "What left them"
    return (
        f"{what} is differentially private for every single user: it would look almost the "
        f"same had any one of them never been there (ε\N{NBSP}=\N{NBSP}"
        f"{epsilon_text(guarantee.epsilon)}, δ\N{NBSP}=\N{NBSP}{delta_text(guarantee.delta)}; "
        f"unit: {guarantee.unit}; adjacency: {guarantee.adjacency})."
    )


def warning(guarantee: GuaranteeRecord | None) -> tuple[str, str] | None:
    """Heading and sentence of the banner; None where the guarantee holds as it stands."""
    if guarantee is None:
        return (
            "No guarantee on record",
            "The run stopped before it wrote its guarantee. Treat everything in it as not private.",
        )
    if guarantee.noise == "none":
        return (
            "Not private",
            "This run added no noise. It shows what privacy costs; nothing in it is protected.",
        )
    if not guarantee.private:
        return (
            "Not private",
            "The noise of this run can be repeated by whoever knows its seed, and so be taken off "
            "again. Leave privacy.noise_seed at -1 for a run that is private.",
        )
    if guarantee.noise == "shared":
        return (
            "Simulated trusted sum",
            "The noise was added once, to the sum over all organisations. The guarantee holds only "
            "where nobody sees a single organisation's part: a trusted third party or secure "
            "aggregation. This run has neither; it simulates one.",
        )
    return None

"""Numbers and sentences of the report, for a person to read; epsilon and delta never round down."""

from shared.words import delta_text, epsilon_text, plural
from simulations.records import DatasetRecord, GuaranteeRecord, RatingRecord, ResultRecord

FEDERATED = ("statistics", "texts", "adapter", "federation", "personalised")
OWN_WORDS = "own histories without noise"
SUM_WORDS = {
    ("own", "plain"): "",
    ("own", "secure"): ", secure sums",
    ("shared", "plain"): ", one noise for a simulated sum",
    ("shared", "secure"): ", one noise for secure sums",
}


def signed_text(value: float) -> str:
    """A difference with four decimals and its sign.

    >>> signed_text(0.00512)
    '+0.0051'
    """
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


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


def short_seconds_text(seconds: float) -> str:
    """A duration that may be far below a second.

    >>> short_seconds_text(0.00042), short_seconds_text(0.0421), short_seconds_text(1.5)
    ('0.4 ms', '42.1 ms', '1.50 s')
    """
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else seconds_text(seconds)


def method_text(result: ResultRecord) -> str:
    """A method's label, apart from the same method without noise."""
    bare = result.method in FEDERATED and result.noise == "none"
    return f"{result.label}, no noise" if bare else result.label


def protection_text(result: ResultRecord) -> str:
    """What protects the users behind a row."""
    if not result.private and result.method == "zero_shot":
        return "not trained"
    if result.method == "by_itself":
        return f"none: {OWN_WORDS}"
    if result.method == "personalised":
        return f"outside the guarantee: {OWN_WORDS}"
    if not result.private and result.method not in FEDERATED:
        return "none: histories pooled"
    return _row_text(result)


def rating_protection_text(rating: RatingRecord) -> str:
    """What protects the users behind a prediction of ratings."""
    if rating.method == "user_mean":
        return "stays with the user"
    if rating.method in ("global_mean", "biased_mf"):
        return "none: ratings pooled"
    return _row_text(rating)


def _row_text(record: ResultRecord | RatingRecord) -> str:
    if record.private:
        how = SUM_WORDS[record.noise, record.aggregation]
        return f"ε = {epsilon_text(record.epsilon)}{how}"
    return "none: no noise" if record.noise == "none" else "none: noise can be repeated"


def part_text(part: str) -> str:
    """A part of the score, for example ``user_model``, in words."""
    return part.replace("_", " ").capitalize()


def lift_text(lift: float | None) -> str:
    """How far released pairs bear out a part's likenesses, in words."""
    if lift is None:
        return "no released pairs to judge by"
    return f"pairs {lift:+.0%} for a deviation more of likeness"


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
        "protocol": "Keys and shares",
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
    if guarantee.aggregation == "secure":
        what = "The sum of what they sent, of which the server saw nothing else,"
    return (
        f"{what} is differentially private for every single user: it would look almost the "
        f"same had any one of them never been there (ε\N{NBSP}=\N{NBSP}"
        f"{epsilon_text(guarantee.epsilon)}, δ\N{NBSP}=\N{NBSP}{delta_text(guarantee.delta)}; "
        f"unit: {guarantee.unit}; adjacency: {guarantee.adjacency})."
    )


def sums_text(guarantee: GuaranteeRecord) -> str:
    """How the organisations' sums reached the server, and what it saw of them."""
    if guarantee.aggregation == "secure":
        return (
            f"masked: the server saw only sums of at least {guarantee.least_participants} "
            "organisations, never what one of them sent"
        )
    if guarantee.noise == "shared":
        return "added up by this one process, which stands in for somebody whom all trust"
    noised = "" if guarantee.noise == "none" else ", with all of its noise"
    return f"as they are: the server saw what each organisation sent{noised}"


def noise_text(guarantee: GuaranteeRecord) -> str:
    """Who added the noise, in words."""
    if guarantee.noise == "none":
        return "none"
    if guarantee.noise == "own":
        return "every organisation adds all of its own"
    if guarantee.aggregation == "plain":
        return "once, for the sum over organisations (simulated)"
    counted = guarantee.least_participants - guarantee.colluders
    return f"once, for the sum: the shares of any {counted} organisations are all of it"


def left_text(guarantee: GuaranteeRecord | None) -> str:
    """In what form the releases left, as the beginning of a sentence."""
    if guarantee is not None and guarantee.aggregation == "secure":
        return (
            "Nothing but these releases left: statistics and updates noised and masked, so that "
            "only their sum can be read, and keys and shares, which are made without the data"
        )
    full = guarantee is not None and guarantee.noise == "own"
    form = "every one with" if full else "without"
    return f"Nothing but these releases left, {form} the organisation's full noise"


def joint_text(guarantee: GuaranteeRecord) -> str:
    """Against whom the run's epsilon holds, where the noise is that of a sum."""
    if guarantee.aggregation == "plain":
        return f"{epsilon_text(guarantee.epsilon)}, against whoever sees the sum alone"
    helpers = plural(guarantee.colluders, "organisation")
    return f"{epsilon_text(guarantee.epsilon)}, against the server with up to {helpers} on its side"


def alone_text(guarantee: GuaranteeRecord) -> str:
    """What an organisation's own noise is worth, where the noise is that of a sum."""
    against = "against the server with all other organisations on its side"
    if guarantee.aggregation == "plain":
        against = "against whoever sees the part of one organisation"
    return f"{epsilon_text(guarantee.epsilon_alone)}, {against}"


def secure_limits(guarantee: GuaranteeRecord) -> tuple[str, ...]:
    """What secure sums do not protect against, one sentence each."""
    if guarantee.aggregation != "secure":
        return ()
    rises = (
        f"More than {plural(guarantee.colluders, 'organisation')} on the server's side: ε rises "
        f"with each further one, to {epsilon_text(guarantee.epsilon_alone)} with all others there.",
    )
    return (
        *(rises if guarantee.noise == "shared" else ()),
        "A server that invents organisations: an agent counts only those whose keys its policy "
        "names, and the policies of a simulation name none.",
        "Whoever runs this simulation: one process plays the server and all organisations. It "
        "runs the protocol and hides nothing from itself.",
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
    if guarantee.noise == "shared" and guarantee.aggregation == "plain":
        return (
            "Simulated trusted sum",
            "The noise was added once, to the sum over all organisations. The guarantee holds only "
            "where nobody sees a single organisation's part: a trusted third party or secure "
            "aggregation. This run has neither; it simulates one. With aggregation.mode = secure "
            "it would have the second.",
        )
    return None

"""The tables at the end of a simulation, as a person reads them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from shared.config import Config
from shared.plan import Aggregation, Noise, PrivacyPlan
from shared.words import thousandths_text
from simulations.methods import Result
from simulations.records import (
    ExampleRecord,
    OrganisationRecord,
    PrivateEvaluationRecord,
    RatingRecord,
    WeightRecord,
)
from simulations.report_words import FEDERATED, OWN_WORDS, lift_text, part_text
from simulations.timing import StageShare

NOISE_WORDS = {
    ("own", "plain"): "own noise",
    ("own", "secure"): "own noise, secure sums",
    ("shared", "plain"): "noise once, simulated",
    ("shared", "secure"): "noise once, secure sums",
}


def print_results(console: Console, results: Sequence[Result], config: Config) -> None:
    """How well each method ranks, with standard errors."""
    k = config.evaluation.cutoff
    table = Table(title=f"Ranking all items for every user ({config.evaluation.protocol}, test)")
    table.add_column("Method")
    table.add_column("Privacy")
    table.add_column(f"HR@{k}", justify="right")
    table.add_column(f"NDCG@{k}", justify="right")
    for result in results:
        found = result.evaluation
        table.add_row(
            result.label,
            privacy_words(result),
            f"{found.hr:.3f} ± {found.standard_error('hr'):.3f}",
            f"{found.ndcg:.3f} ± {found.standard_error('ndcg'):.3f}",
            style="bold" if result.method == "federation" else None,
        )
    console.print(table)
    console.print(
        "  ± one standard error over users. The figures are exact: in a simulation the researcher\n"
        "  holds all data; they are outside the guarantee."
    )


def print_weights(console: Console, weights: Sequence[WeightRecord]) -> None:
    """What texts and user model of the private run weigh, and why where it is not all they may."""
    for record in weights:
        if record.run != "private":
            continue
        weight = f"weight {record.weight:.2f} of {record.most:.2f}"
        line = f"  {part_text(record.part)}: {weight}; {lift_text(record.lift)}"
        less = record.weight < record.most
        console.print(f"[yellow]{line}[/yellow]" if less else line)


def privacy_words(result: Result) -> str:
    """How private a row is, in words."""
    if result.method == "by_itself":
        return f"none, {OWN_WORDS}"
    if result.method == "personalised":
        return f"outside the guarantee, {OWN_WORDS}"
    if result.epsilon is None:
        central = result.method not in FEDERATED
        return "none, data pooled" if central and result.method != "zero_shot" else "none"
    return f"epsilon {result.epsilon:g}, {NOISE_WORDS[result.noise, result.aggregation]}"


def print_ratings(console: Console, ratings: Sequence[RatingRecord]) -> None:
    """Errors of predicted ratings."""
    if not ratings:
        console.print(
            "  [yellow]model.rating_weight is above 0, but no held-out interaction has a rating: "
            "the errors of predicted ratings are unknown.[/yellow]"
        )
        return
    table = Table(title=f"Predicting the rating of the held-out item ({ratings[0].users:,} users)")
    table.add_column("Prediction")
    table.add_column("Privacy")
    for name in ("RMSE", "MAE", "RMSE minus user's mean"):
        table.add_column(name, justify="right")
    for record in ratings:
        head = record.low is not None and record.high is not None
        table.add_row(
            record.label,
            rating_privacy_words(record),
            f"{record.rmse:.3f}",
            f"{record.mae:.3f}",
            f"{record.low:+.3f} to {record.high:+.3f}" if head else "",
            style="bold" if head else None,
        )
    console.print(table)
    console.print("  In units of the scale; the interval is of a paired bootstrap over users, 95%.")


def rating_privacy_words(record: RatingRecord) -> str:
    """What protects the users behind a prediction."""
    if record.method == "rating_head":
        if record.epsilon is None:
            return "none"
        return f"epsilon {record.epsilon:g}, {NOISE_WORDS[record.noise, record.aggregation]}"
    return "stays with the user" if record.method == "user_mean" else "none, data pooled"


def print_organisations(
    console: Console, organisations: Sequence[OrganisationRecord], plan: PrivacyPlan
) -> None:
    """What each organisation spent and what left it, and against whom that holds."""
    table = Table(title=f"Budget by organisation (unit: user; {plan.adjacency.value})")
    for name in (
        "Organisation",
        "Users declared",
        "Epsilon before",
        "spent",
        "of",
        "alone",
        "delta",
        "Releases",
        "kB sent",
    ):
        table.add_column(name, justify="left" if name == "Organisation" else "right")
    for record in organisations:
        spent, budget = record.epsilon_spent, record.epsilon_budget
        before = record.epsilon_before
        table.add_row(
            record.name,
            str(record.declared_users),
            "-" if before is None else thousandths_text(before),
            "no bound" if spent is None else thousandths_text(spent),
            "-" if budget is None else f"{budget:g}",
            "no bound" if record.epsilon_alone is None else thousandths_text(record.epsilon_alone),
            f"{record.delta:.1e}",
            str(sum(release.times for release in record.releases)),
            f"{sum(release.bytes for release in record.releases) / 1000:,.0f}",
        )
    console.print(table)
    console.print(f"  {sums_sentence(plan)}", highlight=False)


def sums_sentence(plan: PrivacyPlan) -> str:
    """What the server saw of the organisations, and against whom the two epsilons hold."""
    if plan.aggregation is Aggregation.PLAIN:
        if plan.noise is Noise.SHARED:
            return (
                "One noise for a sum that this process took: epsilon spent holds where nobody sees "
                "the part of one organisation, alone where somebody does."
            )
        return "The server saw what each organisation sent."
    seen = f"The server saw only sums of at least {plan.least_participants} organisations"
    if plan.noise is not Noise.SHARED:
        return f"{seen}."
    return (
        f"{seen}. Epsilon spent holds against it with up to {plan.colluders} of them on its side, "
        "alone with all others there; in a simulation one process plays them all."
    )


def print_private_evaluation(console: Console, record: PrivateEvaluationRecord) -> None:
    """What the organisations said of ranking quality, through noise that is in their budgets."""
    console.print(
        f"  Private evaluation of the federation, as the server saw it: HR@{record.cutoff} "
        f"{record.hr:.3f} ± {record.hr_deviation:.3f}, NDCG@{record.cutoff} {record.ndcg:.3f} ± "
        f"{record.ndcg_deviation:.3f} (± the noise's standard deviation)."
    )


def print_examples(console: Console, examples: Sequence[ExampleRecord]) -> None:
    """A few users with their newest items and what is recommended to them."""
    for example in examples:
        table = Table(title=f"User {example.user} of {example.organisation}", title_justify="left")
        table.add_column("Newest first")
        table.add_column("Recommended")
        table.add_column("Score", justify="right")
        for place, item in enumerate(example.recommended):
            recent = example.recent[place] if place < len(example.recent) else ""
            table.add_row(recent, f"{place + 1}. {item.title}", f"{item.score:.2f}")
        console.print(table)


def print_stages(console: Console, stages: Sequence[StageShare]) -> None:
    """Where the time of a round went, in one line; nothing where it is not known."""
    if stages:
        whole = sum(stage.seconds for stage in stages)
        shown = [stage for stage in stages if stage.share >= 0.01]
        parts = [f"{stage.label.lower()} {stage.share:.0%}" for stage in shown]
        console.print(f"  A round took {whole:.2f} s: {'; '.join(parts)}.")

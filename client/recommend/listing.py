"""A list of recommendations as a person reads it on a terminal."""

from rich.console import Console
from rich.table import Table

from client.recommend.generative import able_to_generate
from client.recommend.query import Explanation, Query
from client.recommend.recommender import Recommender


def print_recommendations(
    console: Console, recommender: Recommender, user: str, query: Query, reasons: bool
) -> None:
    """A list for one user, with what it was made from.

    Raises:
        DataError: if there is no such user.
        ConfigError: if the query makes no sense.
        AssetError: if it asks a language model that cannot be loaded.
    """
    if query.mode == "generative":
        recommender = able_to_generate(recommender)
    found = recommender.recommend(user, query)
    titles = recommender.catalogue.titles
    recent = "; ".join(titles[place] for place in recommender.recent(user, 5))
    console.print(f"[bold]{user}[/bold] of {recommender.name}, lately: {recent}")
    if query.need is not None:
        console.print(f"looking for: {query.need}")
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("Recommended")
    table.add_column("", style="dim")
    table.add_column("Score", justify="right")
    if reasons:
        table.add_column("Because of (score lost without it)")
        items = [line.item_id for line in found]
        why = [_reasons(one) for one in recommender.explain(user, items, query)]
    for place, line in enumerate(found):
        details = line.text.removeprefix(line.title).strip(" .")
        cells = [str(place + 1), line.title, details, f"{line.score:.2f}"]
        table.add_row(*cells, *([why[place]] if reasons else []))
    console.print(table)
    say_what_counts(console, recommender)


def say_what_counts(console: Console, recommender: Recommender) -> None:
    """Say where a list is more than the federation's guarantee speaks of."""
    if recommender.delivery.own_cooccurrence:
        console.print(
            f"[dim]With what the users of {recommender.name} had together, counted here without "
            "noise: lists depend on other users' histories, outside the federation's guarantee.[/]"
        )


def _reasons(one: Explanation) -> str:
    named = [f"{reason.title} {reason.drop:.2f}" for reason in one.history]
    matched = [f'"{reason.word}" {reason.drop:.2f}' for reason in one.words]
    return "; ".join(named + matched) or "many people had it"

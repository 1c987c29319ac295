"""From what a federation has delivered to a list of recommendations, as a person reads it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client.recommend import Recommendation, Recommender, open_recommender
from client.settings import AgentSettings, settings_path
from shared.errors import RunError
from shared.settings import adopt


def open_delivered(directory: Path) -> Recommender:
    """The recommender of a deployed organisation, under the settings of what was delivered last.

    Raises:
        RunError: if nothing was delivered yet.
        TacitError: if a file of the organisation cannot be used.
    """
    local = AgentSettings.load(settings_path(directory)).to_config()
    path = directory / "delivered" / "settings.json"
    try:
        text = path.read_text()
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); the federation has delivered nothing yet"
        ) from error
    return open_recommender(directory, adopt(local, text))


def print_recommendations(
    console: Console,
    recommender: Recommender,
    user: str,
    need: str | None,
    found: Sequence[Recommendation],
) -> None:
    """A list for one user, with what it was made from."""
    recent = "; ".join(recommender.recent(user, 5))
    console.print(f"[bold]{user}[/bold] of {recommender.name}, lately: {recent}")
    if need is not None:
        console.print(f"looking for: {need}")
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("Recommended")
    table.add_column("", style="dim")
    table.add_column("Score", justify="right")
    for place, line in enumerate(found):
        details = line.text.removeprefix(line.title).strip(" .")
        table.add_row(str(place + 1), line.title, details, f"{line.score:.2f}")
    console.print(table)

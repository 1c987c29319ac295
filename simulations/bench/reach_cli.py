"""``tacit bench reach`` on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.bench.settings import parse_setting
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides, WarmStart

if TYPE_CHECKING:
    from simulations.bench.reach import ReachComparison, ReachRow

USUAL = ("shared:8", "own:8")


def reach_command(
    data: DataSource = None,
    warm_start: WarmStart = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NOISE[:EPSILON]", help=f"May be given often; {', '.join(USUAL)}."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of every setting.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Rank items added after training, a joining house's catalogue, and by needs in words."""
    from simulations.bench.reach import measure

    named = {"data.source": data, "model.warm_start": warm_start}
    config = load_config(config_file, set_ or [], {k: v for k, v in named.items() if v is not None})
    settings = [parse_setting(text, "plain") for text in setting or USUAL]
    console = Console()
    with console.status("Reading data") as status:
        rows, comparisons = measure(config, settings, seeds, status.update)
    print_reach(console, rows, comparisons)
    if json_file is not None:
        write_json(
            json_file,
            {
                "rows": [asdict(row) for row in rows],
                "comparisons": [asdict(found) for found in comparisons],
            },
        )


def print_reach(
    console: Console, rows: "Sequence[ReachRow]", comparisons: "Sequence[ReachComparison]"
) -> None:
    """Each slice's methods, and below them what is paired over users."""
    from simulations.bench.reach import LABELS, SLICES

    table = measured_table(
        "Ranked", "Method", "Noise", "Epsilon", "HR@k", "NDCG@k", "Users", "Items", left=3
    )
    for row in rows:
        table.add_row(
            SLICES[row.slice],
            LABELS[row.method],
            row.noise,
            "-" if row.epsilon is None else f"{row.epsilon:g}",
            f"{row.hr10:.4f}",
            f"{row.ndcg10:.4f} ± {row.ndcg10_se:.4f}",
            str(row.users),
            str(row.items),
        )
    console.print(table)
    for found in comparisons:
        console.print(
            f"{SLICES[found.slice].capitalize()}, {found.noise} noise, epsilon "
            f"{'-' if found.epsilon is None else f'{found.epsilon:g}'}: {LABELS[found.method]} "
            f"less {LABELS[found.less].lower()}: NDCG@k {found.mean:+.4f} "
            f"(95% {found.low:+.4f} to {found.high:+.4f})",
            highlight=False,
        )

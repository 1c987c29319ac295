"""``tacit bench size`` on the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.bench.settings import parse_setting
from simulations.options import ConfigFile, JsonFile, Overrides

USUAL = (1000, 3000, 10_000)


def size_command(
    data: Annotated[
        str, typer.Option(help="Of which so many users are drawn; default: generated users.")
    ] = "synthetic",
    config_file: ConfigFile = None,
    set_: Overrides = None,
    users: Annotated[
        list[int] | None, typer.Option(min=50, help=f"May be given often; {USUAL}.")
    ] = None,
    setting: Annotated[str, typer.Option(metavar="NOISE[:EPSILON]")] = "shared:8",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the noise.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw it; .png or .svg.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Rank generated users, or some of a data set, from few to many, with each part."""
    from simulations.bench.size import measure
    from simulations.bench.utility_plots import plot_size

    config = load_config(config_file, set_ or [], {"data.source": data})
    console = Console()
    with console.status("Starting") as status:
        rows = measure(config, users or USUAL, parse_setting(setting), seeds, status.update)
    table = measured_table("Users", "Items", "Method", "NDCG@k", "Draws", left=0)
    for row in rows:
        table.add_row(
            f"{row.users:,}",
            f"{row.items:,}",
            row.method,
            f"{row.ndcg10:.4f} ± {row.ndcg10_se:.4f}",
            str(row.seeds),
        )
    console.print(table)
    if plot is not None:
        plot_size(plot, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})

"""``tacit bench growth`` on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.errors import ConfigError
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.growth import Fit, GrowthRow


def growth_command(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="users, items, organisations or history; may be given often."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Other sizes, of the one --axis; may be given often."),
    ] = None,
    largest: Annotated[bool, typer.Option(help="Up to a million; takes much longer.")] = False,
    step_users: Annotated[int, typer.Option(min=1, help="Expected in a private step.")] = 16,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write a picture of each axis.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Time and memory as users, items, organisations or histories grow, and the exponents."""
    from simulations.bench.growth import LARGEST, USUAL, fits, measure
    from simulations.bench.growth_plots import write_plots
    from simulations.bench.growth_tasks import Sizes
    from simulations.bench.machine import machine_line

    config = load_config(config_file, set_ or [])
    usual = LARGEST if largest else USUAL
    for name in axis or ():
        if name not in usual:
            raise ConfigError(f"--axis {name}: expected one of {', '.join(usual)}")
    axes = {name: tuple(usual[name]) for name in axis or usual}
    if size:
        if len(axes) != 1:
            raise ConfigError("--size: says how large one thing is; give one --axis with it")
        axes = dict.fromkeys(axes, tuple(sorted(set(size))))
    console = Console()
    with console.status("Starting") as status:
        rows = measure(config, axes, Sizes(step_users=step_users), status.update)
    found = fits(rows)
    print_growth(console, rows, found)
    console.print(machine_line())
    if plots is not None:
        for path in write_plots(plots, rows, found):
            console.print(f"Written: {path}")
    if json_file is not None:
        write_json(
            json_file,
            {"rows": [asdict(row) for row in rows], "fits": [asdict(fit) for fit in found]},
        )


def print_growth(console: Console, rows: "Sequence[GrowthRow]", fits: "Sequence[Fit]") -> None:
    """Seconds and memory of each size, and below them how each thing grows."""
    table = measured_table("Grows", "What", "Size", "Seconds", "MB", "With mapped files", left=2)
    for row in rows:
        table.add_row(
            row.axis,
            row.what,
            f"{row.size:,}",
            f"{row.seconds:.3g}",
            f"{row.anonymous_mb:,.0f}",
            f"{row.resident_mb:,.0f}",
        )
    console.print(table)
    growth = measured_table("Grows", "What", "Exponent of time", "At last", left=2)
    for fit in fits:
        growth.add_row(fit.axis, fit.what, f"{fit.exponent:.2f}", f"{fit.at_last:.2f}")
    console.print(growth)

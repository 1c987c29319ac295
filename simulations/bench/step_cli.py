"""``tacit bench step`` on the command line."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.step import Measured


def step_command(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Users of a step.")] = 256,
    items: Annotated[int, typer.Option(min=2, help="Size of the catalogue.")] = 1682,
    repeats: Annotated[int, typer.Option(min=1, help="Of each way; the median counts.")] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    shape: Annotated[
        str, typer.Option(help="qwen3-0.6b: random weights of that shape; layers by model.layers.")
    ] = "",
    json_file: JsonFile = None,
) -> None:
    """Time a private step beside the same step without privacy and by other means."""
    from simulations.bench.machine import machine_line
    from simulations.bench.step import measure

    config = load_config(config_file, set_ or [], {"run.device": device})
    console = Console()
    with console.status("Timing steps"):
        found = measure(config, users, items, repeats, shape)
    print_steps(console, found)
    console.print(f"  {machine_line(device)}", highlight=False)
    if json_file is not None:
        rows = [asdict(row) for row in found.rows]
        write_json(json_file, {"rows": rows, "matrix_rates": found.matrix_rates})


def print_steps(console: Console, found: "Measured") -> None:
    """Users a second of every way, and how that compares."""
    table = measured_table(
        "Step",
        "Precision",
        "Users a second",
        "Times non-private",
        "Times float32",
        "Of float32 matrix rate",
        left=2,
    )
    for row in found.rows:
        table.add_row(
            row.name,
            row.precision,
            f"{row.rows_per_s:.1f}",
            f"{row.ratio_to_non_private:.2f}",
            f"{row.ratio_to_float32:.2f}" if row.ratio_to_float32 else "-",
            f"{row.fraction_of_matrix_rate:.2f}",
        )
    console.print(table)
    for precision, rate in found.matrix_rates.items():
        console.print(
            f"  Product of two square matrices in {precision}: {rate / 1e9:.0f} GFLOP/s",
            highlight=False,
        )

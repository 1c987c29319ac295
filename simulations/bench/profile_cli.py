"""``tacit bench profile`` on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides
from simulations.report_words import short_seconds_text

if TYPE_CHECKING:
    from simulations.bench.profile import ProfileRow


def profile_command(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    organisations: Annotated[int, typer.Option(min=1, help="That take part.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="That are looked at.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Say where the time of a federation goes: before the rounds, and inside one, by stage."""
    from simulations.bench.machine import machine_line
    from simulations.bench.profile import measure

    named: dict[str, object] = {
        "partition.organisations": organisations,
        "training.rounds": rounds,
        "run.engine": "in-process",
        "run.organisations": "",
    }
    config = load_config(config_file, set_ or [], named | ({"data.source": data} if data else {}))
    console = Console()
    with console.status("Reading data") as status:
        rows = measure(config, status.update)
    print_profile(console, rows)
    console.print(f"  {machine_line(config.run.device)}", highlight=False)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def print_profile(console: Console, rows: "Sequence[ProfileRow]") -> None:
    """Seconds, shares and calls of each stage."""
    table = measured_table("Part", "Stage", "Time", "Share", "Calls", left=2)
    before = ""
    for row in rows:
        if before and row.part != before:
            table.add_section()
        table.add_row(
            row.part if row.part != before else "",
            row.stage,
            short_seconds_text(row.seconds),
            f"{row.share:.1%}",
            "-" if row.calls is None else f"{row.calls:g}",
        )
        before = row.part
    console.print(table)
    console.print(
        "  A round is the mean of those looked at, all organisations one after the other."
    )

"""``tacit bench peers``: a federated round beside other ways to run the same federation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.errors import ConfigError
from shared.files import write_json
from simulations.bench.peers.start import DEFAULT, WAYS
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.peers.measure import AgreementRow, PeerRow


def peers_command(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    way: Annotated[
        list[str] | None,
        typer.Option(help=f"May be given often; {', '.join(WAYS)}. By default all but pfl."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed in every process, after one more.")] = 2,
    repeats: Annotated[
        int, typer.Option(min=1, help="Processes of every way, the ways in turn.")
    ] = 1,
    peers_precision: Annotated[
        str, typer.Option(help="float32 or bfloat16, of the peers alone; as ours if not given.")
    ] = "",
    users: Annotated[int, typer.Option(min=0, help="The first of the data; 0: all.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Compare adapters after one round without noise.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Run the same federation by tacit, by a usual Flower app and by pfl-research, and time it.

    ours and ours-ray are tacit's engines. The Flower app builds its model and data at every call:
    flower encodes the items too, flower-cached reads their vectors. pfl is one process of
    pfl-research, pfl-workers one per core.
    """
    from simulations.bench.machine import machine_line
    from simulations.bench.peers.measure import agreement, available, measure

    chosen = list(dict.fromkeys(way or DEFAULT))
    for name in chosen:
        if name not in WAYS:
            raise ConfigError(f"--way {name}: expected one of {', '.join(WAYS)}")
    if peers_precision not in ("", "float32", "bfloat16"):
        raise ConfigError(f"--peers-precision {peers_precision}: expected float32 or bfloat16")
    config = load_config(config_file, set_ or [], {} if data is None else {"data.source": data})
    found, left_out = available(chosen)
    console = Console()
    rows: Sequence[PeerRow | AgreementRow]
    with console.status("Preparing the federation") as status:
        if check:
            rows = compared = agreement(config, found, 1, users, status.update)
        else:
            rows = timed = measure(
                config, found, rounds, repeats, users, status.update, peers_precision
            )
    console.print(machine_line(), highlight=False)
    if check:
        print_agreement(console, compared)
    else:
        print_peers(console, timed)
    if left_out:
        console.print(left_out)
    if json_file is not None:
        write_json(json_file, {"machine": machine_line(), "rows": [asdict(row) for row in rows]})


def print_peers(console: Console, rows: "Sequence[PeerRow]") -> None:
    """Seconds of a round, also over those of ours, of the way to the first one, and memory."""
    table = measured_table(
        "Way", "Precision", "Round s", "Ratio", "CPU s", "First s", "MiB", left=2
    )
    for row in rows:
        table.add_row(
            row.way,
            row.precision,
            f"{row.round_s:.2f}",
            "-" if row.times_ours is None else f"{row.times_ours:.1f}",
            f"{row.processor_s:.1f}",
            f"{row.first_round_s:.1f}",
            f"{row.peak_mib:,.0f}",
        )
    console.print(table)
    for row in rows[:1]:
        console.print(
            f"  {row.organisations} organisations, {row.users:,} users; medians of {row.rounds} "
            "rounds after a first one.",
            "  CPU s: of all cores. First s: from the start to the end of the first round.",
            "  MiB: peak of the proportional set sizes of all processes.",
            sep="\n",
            highlight=False,
        )


def print_agreement(console: Console, rows: "Sequence[AgreementRow]") -> None:
    """How far the adapters are apart."""
    table = measured_table("Way", "Difference to ours", left=1)
    for row in rows:
        table.add_row(row.way, f"{row.difference:.1e}")
    console.print(table)
    console.print("  Of the adapter after one round without noise in float32; relative L2 norm.")

"""``tacit bench secure`` on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.noise_families import FamilyRow
    from simulations.bench.secure import SecureRow


def secure_command(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    organisations: Annotated[
        list[int] | None, typer.Option(min=3, help="May be given often; 3, 8, 20, 50.")
    ] = None,
    coordinates: Annotated[
        list[int] | None, typer.Option(min=1, help="Of the sum; may be given often.")
    ] = None,
    lost: Annotated[
        int, typer.Option(min=0, help="Send no vector; fewer where the plan allows fewer.")
    ] = 0,
    largest: Annotated[
        bool, typer.Option(help="Ten million coordinates too; needs 8 GB and minutes.")
    ] = False,
    families: Annotated[
        bool, typer.Option(help="Compare families of noise that can be shared, and time no sums.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Time secure sums, stage by stage, and count their bytes."""
    from simulations.bench import noise_families
    from simulations.bench.machine import machine_line
    from simulations.bench.secure import LARGEST, ORGANISATIONS, USUAL, measure

    config = load_config(config_file, set_ or [])
    sizes = coordinates or (LARGEST if largest else USUAL)
    console = Console()
    rows: Sequence[SecureRow | FamilyRow]
    if families:
        with console.status("Comparing") as status:
            rows = compared = noise_families.measure(told=status.update)
        noise_families.print_families(console, compared)
    else:
        with console.status("Adding up") as status:
            rows = sums = measure(
                config, organisations or ORGANISATIONS, sizes, lost, status.update
            )
        print_secure(console, sums)
    console.print(f"  {machine_line()}", highlight=False)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def print_secure(console: Console, rows: "Sequence[SecureRow]") -> None:
    """An organisation's seconds by stage, and below them the server's, bytes and rates."""
    stages = ("Keys", "Shares", "Opening", "Noise", "Masks", "Packing", "Unmask", "Disk")
    own = measured_table("Sum of", "Numbers", *stages, left=1)
    for row in rows:
        begun = row.keys_s, row.shares_s, row.opening_s, row.noise_s
        parts = *begun, row.masks_s, row.packing_s, row.unmask_s, row.disk_s
        own.add_row(_sum_of(row), f"{row.coordinates:,}", *(f"{s:.4f}" for s in parts))
    console.print(own)
    console.print("  Seconds of one organisation, of one core; of Disk, seconds that it waits.")
    server = measured_table(
        "Sum of", "Numbers", "Shares", "Vectors", "Unmask", "Decode", "Peak MB", left=1
    )
    for row in rows:
        began = row.server_shares_s, row.server_vectors_s
        ended = row.server_unmask_s, row.server_decode_s
        server.add_row(
            _sum_of(row),
            f"{row.coordinates:,}",
            *(f"{s:.4f}" for s in (*began, *ended)),
            f"{row.peak_mb:,.0f}",
        )
    console.print(server)
    console.print("  Seconds of the server, of one core; MB of all in one process.")
    traffic = measured_table(
        "Sum of", "Numbers", "Up kB", "Of fp32", "Down kB", "MB/s a stream", "under all", left=1
    )
    for row in rows:
        traffic.add_row(
            _sum_of(row),
            f"{row.coordinates:,}",
            f"{row.up_bytes / 1e3:,.1f}",
            f"{row.up_ratio:.3f}",
            f"{row.down_bytes / 1e3:,.1f}",
            f"{row.stream_mb_per_s:,.0f}",
            f"{row.masks_mb_per_s:,.0f}",
        )
    console.print(traffic)
    console.print("  Of one organisation; MB/s of the vector as float32, on one core.")


def _sum_of(row: "SecureRow") -> str:
    return f"{row.organisations - row.lost} of {row.organisations}"

"""``tacit bench ranking``: its options, and its table."""

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
    from simulations.bench.ranking import PassTimes, RankingRow


def ranking_command(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Whose targets are ranked, made up.")] = 10_000,
    items: Annotated[int, typer.Option(min=20, help="Of the catalogue, made up.")] = 10_000,
    repeats: Annotated[int, typer.Option(min=1, help="Of each way; the median counts.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Rank the whole catalogue for every user, in blocks and, where small, by whole rows."""
    from simulations.bench.machine import machine_line
    from simulations.bench.ranking import measure

    config = load_config(config_file, set_ or [])
    console = Console()
    with console.status("Making up users") as status:
        rows, passes = measure(config, users, items, repeats, status.update)
    machine = machine_line()
    print_ranking(console, rows, passes)
    console.print(f"  {machine}", highlight=False)
    if json_file is not None:
        write_json(
            json_file,
            {
                "machine": machine,
                "rows": [asdict(row) for row in rows],
                "passes": asdict(passes),
            },
        )


def print_ranking(console: Console, rows: "Sequence[RankingRow]", passes: "PassTimes") -> None:
    """What each way takes and gives, and what users cost besides."""
    table = measured_table(
        "Way", "s", "Users a s", "MB", "Alike", "NDCG@10", "MRR", "Coverage", left=1
    )
    for row in rows:
        table.add_row(
            row.way,
            f"{row.seconds:.1f}",
            f"{row.users_per_s:,.0f}",
            f"{row.peak_mb:,.0f}",
            f"{row.ranks_like_blocks:.2%}",
            f"{row.ndcg10:.6f}",
            f"{row.mrr:.6f}",
            f"{row.coverage:.4f}",
        )
    console.print(table)
    console.print(f"  {rows[0].users:,} users, {rows[0].items:,} items.")
    console.print(
        f"  For the same users: {passes.forward_s:,.0f} s for the user model to read all "
        f"histories, {passes.epoch_s:,.0f} s for one epoch of private steps (from "
        f"{passes.sample} users each)."
    )
    console.print("  Alike: users whose rank and list are those of the blocks. MB: beside vectors.")

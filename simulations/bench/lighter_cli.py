"""``tacit bench lighter`` on the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.bench.settings import parse_setting
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.lighter import LighterRow


def lighter_command(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    setting: Annotated[str, typer.Option(metavar="NOISE[:EPSILON]")] = "shared:8",
    student_layers: Annotated[int, typer.Option(min=1, help="Of the distilled user model.")] = 1,
    histories: Annotated[
        int, typer.Option(min=1, help="Made up from released statistics, to teach it.")
    ] = 4000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Rank and time with lighter user models: eight bits, and a distilled one of fewer layers."""
    from simulations.bench.lighter import Lessons, measure
    from simulations.bench.machine import machine_line

    config = load_config(config_file, set_ or [], {} if data is None else {"data.source": data})
    lessons = Lessons(student_layers, histories, epochs)
    console = Console()
    with console.status("Reading data") as status:
        rows = measure(config, parse_setting(setting), lessons, status.update)
    machine = machine_line()
    print_lighter(console, rows)
    console.print(f"  {machine}", highlight=False)
    if json_file is not None:
        write_json(
            json_file,
            {
                "machine": machine,
                "lessons": asdict(lessons),
                "rows": [asdict(row) for row in rows],
            },
        )


def print_lighter(console: Console, rows: "Sequence[LighterRow]") -> None:
    """Ranking, size and speed of every way."""
    table = measured_table(
        "User model",
        "Layers",
        "MB",
        "Cosine",
        "Alone HR@k",
        "NDCG@k",
        "Whole HR@k",
        "NDCG@k",
        "Less first (95%)",
        "ms",
        "Users/s",
        left=1,
    )
    for row in rows:
        table.add_row(
            row.way,
            str(row.layers),
            f"{row.size_mb:.1f}",
            f"{row.cosine:.4f}",
            f"{row.adapter_hr10:.4f}",
            f"{row.adapter_ndcg10:.4f}",
            f"{row.hr10:.4f}",
            f"{row.ndcg10:.4f}",
            f"{row.ndcg10_less_first:+.4f} ({row.low:+.4f} to {row.high:+.4f})",
            f"{row.history_ms:.2f}",
            f"{row.users_per_s:.1f}",
        )
    console.print(table)
    epsilon = "-" if rows[0].epsilon is None else f"{rows[0].epsilon:g}"
    console.print(
        f"  {rows[0].data}, {rows[0].users:,} users, {rows[0].noise} noise, epsilon {epsilon}. "
        "Alone, Whole: the adapter alone and the whole blend. Less first: NDCG@k of the blend less "
        "that of the first row, paired over users. MB: weights of the layers. ms: one history of "
        "a full window. Users/s: in passes over real histories.",
        highlight=False,
    )

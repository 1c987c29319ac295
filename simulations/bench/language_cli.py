"""``tacit bench language``: its options, and its tables."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.errors import ConfigError
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import BaseName, ConfigFile, DataSource, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.language import QualityRow, SpeedRow


def language_command(
    data: DataSource = None,
    base: BaseName = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    layers: Annotated[
        list[int] | None, typer.Option(min=1, help="May be given often; 4, 8 and 30.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="May be given often; float32, bfloat16 and int8.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Of a timed step, made up.")] = 16,
    repeats: Annotated[int, typer.Option(min=0, help="Timed steps; 0: none.")] = 3,
    ranked_layers: Annotated[
        list[int] | None, typer.Option(min=1, help="Trained and ranked; the first of the layers.")
    ] = None,
    ranked_users: Annotated[
        int, typer.Option(min=0, help="Who are trained on and ranked for; 0: all of the data.")
    ] = 300,
    rounds: Annotated[int, typer.Option(min=0, help="Of training without noise; 0: none.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Of the adapter, for the ranking.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Time a base as user model in several precisions, and rank with it."""
    from simulations.bench.language import PRECISIONS, measure_quality, measure_speed
    from simulations.bench.machine import machine_line

    named = {"base.name": base or "smollm2", "data.source": data}
    config = load_config(config_file, set_ or [], {k: v for k, v in named.items() if v is not None})
    chosen = tuple(precision or PRECISIONS)
    left_out = not precision and importlib.util.find_spec("torchao") is None
    if left_out:
        chosen = tuple(name for name in PRECISIONS if name != "int8")
    for name in chosen:
        if name not in PRECISIONS:
            raise ConfigError(f"--precision {name}: expected one of {', '.join(PRECISIONS)}")
    stacks = layers or [4, 8, 30]
    console = Console()
    speeds: list[SpeedRow] = []
    qualities: list[QualityRow] = []
    with console.status("Loading") as status:
        for count in stacks if repeats else []:
            speeds += measure_speed(config, count, chosen, users, repeats, status.update)
        for count in (ranked_layers or stacks[:1]) if rounds else []:
            qualities += measure_quality(
                config, count, chosen, ranked_users, rounds, seeds, status.update
            )
    machine = machine_line()
    print_language(console, speeds, qualities)
    console.print(f"  {machine}", highlight=False)
    if left_out:
        console.print("  int8 is left out: it needs torchao (the extra int8).", highlight=False)
    if json_file is not None:
        write_json(
            json_file,
            {
                "machine": machine,
                "speed": [asdict(row) for row in speeds],
                "quality": [asdict(row) for row in qualities],
            },
        )


def print_language(
    console: Console, speeds: "Sequence[SpeedRow]", qualities: "Sequence[QualityRow]"
) -> None:
    """Speed and memory, then how well it ranks."""
    if speeds:
        table = measured_table(
            "Precision", "Layers", "Step", "x", "Score", "x", "Held", "Scoring", "Stepping", left=1
        )
        for row in speeds:
            table.add_row(
                row.precision,
                str(row.layers),
                f"{row.step_rows_per_s:.1f}",
                f"{row.step_to_float32:.2f}",
                f"{row.scoring_rows_per_s:.1f}",
                f"{row.scoring_to_float32:.2f}",
                f"{row.held_mb:,.0f}",
                f"{row.scoring_mb:,.0f}",
                f"{row.step_mb:,.0f}",
            )
        console.print(table)
        console.print(
            "  Step, Score: users a second; x: times float32's. Held, Scoring, Stepping: "
            "most MB of the process for the model, mapped files included."
        )
    if qualities:
        table = measured_table(
            "Precision", "Layers", "HR@10", "NDCG@10", "Less first", "95%", left=1
        )
        for quality in qualities:
            table.add_row(
                quality.precision,
                str(quality.layers),
                f"{quality.hr10:.4f}",
                f"{quality.ndcg10:.4f}",
                f"{quality.ndcg10_less_first:+.4f}",
                f"{quality.low:+.4f} to {quality.high:+.4f}",
            )
        console.print(table)
        console.print(
            f"  The adapter alone after {qualities[0].rounds} rounds without noise over "
            f"{qualities[0].users:,} users, means of {qualities[0].seeds} draws. Less first: "
            "NDCG@10 less that of the first precision, paired over users."
        )

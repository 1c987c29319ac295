"""``tacit bench lists``, ``serve`` and ``words``: what local recommending is worth and takes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.errors import ConfigError
from shared.files import write_json
from simulations.bench.printing import measured_table
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides

if TYPE_CHECKING:
    from simulations.bench.lists import ListRow
    from simulations.bench.serve import ServeRow
    from simulations.bench.words import WordsRow


def lists_command(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    generate: Annotated[
        int, typer.Option(min=0, help="Users for whom SmolLM2 generates titles; 0: none.")
    ] = 0,
    part: Annotated[str, typer.Option(help="test or validation.")] = "test",
    json_file: JsonFile = None,
) -> None:
    """Make every user's list in every way, and say what each costs."""
    from simulations.bench.lists import measure

    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}: expected test or validation")
    config = load_config(config_file, set_ or [], {} if data is None else {"data.source": data})
    console = Console()
    with console.status("Reading data") as status:
        rows = measure(config, generate, part, status.update)
    print_lists(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def serve_command(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    items: Annotated[int, typer.Option(min=100, help="Of the catalogue, made up.")] = 10_000,
    users: Annotated[int, typer.Option(min=1, help="Of the organisation, made up.")] = 10_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each measurement.")] = 60.0,
    batch: Annotated[bool, typer.Option(help="Time lists for all users too.")] = True,
    json_file: JsonFile = None,
) -> None:
    """Serve a made-up organisation and load it, also while a delivery comes every second."""
    from simulations.bench.serve import measure

    config = load_config(config_file, set_ or [])
    console = Console()
    with console.status("Making the organisation") as status:
        rows = measure(config, items, users, rate, seconds, batch, status.update)
    print_serving(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def words_command(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Who are described.")] = 20,
    k: Annotated[int, typer.Option("-k", min=0, help="Recommendations of each.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Have SmolLM2 describe users, and count what did not pass the check against the facts."""
    from simulations.bench.words import measure

    config = load_config(config_file, set_ or [], {} if data is None else {"data.source": data})
    console = Console()
    with console.status("Reading data") as status:
        rows = measure(config, users, k, status.update)
    print_words(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def print_words(console: Console, rows: "Sequence[WordsRow]") -> None:
    """Who wrote what was said."""
    table = measured_table("Text", "Texts", "At once", "Retry", "Template", "s a text", left=1)
    for row in rows:
        shares = [f"{share:.0%}" for share in (row.first_try, row.retried, row.fallbacks)]
        table.add_row(row.kind, str(row.texts), *shares, f"{row.seconds:.1f}")
    console.print(table)


def print_lists(console: Console, rows: "Sequence[ListRow]") -> None:
    """Quality of each way, its difference to the usual one, and how varied its lists are."""
    table = measured_table(
        "List",
        "Users",
        "HR@10",
        "NDCG@10",
        "Less hybrid (95%)",
        "Coverage",
        "Alike",
        "Bits",
        left=1,
    )
    for row in rows:
        table.add_row(
            row.way,
            str(row.users),
            f"{row.hr10:.4f}",
            f"{row.ndcg10:.4f} ± {row.ndcg10_error:.4f}",
            f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})",
            f"{row.coverage:.3f}",
            f"{row.alike:.3f}",
            f"{row.novelty:.2f}",
        )
    console.print(table)
    console.print("  Alike: mean cosine of two items of a list; Bits: novelty.")


def print_serving(console: Console, rows: "Sequence[ServeRow]") -> None:
    """Milliseconds a request, and what went wrong."""
    table = measured_table(
        "What", "Items", "Users", "A second", "p50 ms", "p99 ms", "Errors", "Swaps", "MiB", left=1
    )
    for row in rows:
        table.add_row(
            row.what,
            f"{row.items:,}",
            f"{row.users:,}",
            f"{row.rate:,.0f}",
            "-" if row.p50_ms is None else f"{row.p50_ms:.1f}",
            "-" if row.p99_ms is None else f"{row.p99_ms:.1f}",
            str(row.errors),
            str(row.swaps),
            f"{row.memory_mib:,.0f}",
        )
    console.print(table)
    for row in rows:
        if row.what == "batch":
            console.print(f"  The batch took {row.seconds:.1f} s, with the opening.")

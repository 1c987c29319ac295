"""``tacit bench``: commands that print the tables of the docs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config
from shared.errors import ConfigError
from shared.files import write_json
from simulations.bench.growth_cli import growth_command
from simulations.bench.language_cli import language_command
from simulations.bench.lighter_cli import lighter_command
from simulations.bench.local_cli import lists_command, serve_command, words_command
from simulations.bench.peers_cli import peers_command
from simulations.bench.printing import measured_table
from simulations.bench.profile_cli import profile_command
from simulations.bench.ranking_cli import ranking_command
from simulations.bench.reach_cli import reach_command
from simulations.bench.secure_cli import secure_command
from simulations.bench.settings import SETTINGS, parse_setting
from simulations.bench.size_cli import size_command
from simulations.bench.step_cli import step_command
from simulations.options import ConfigFile, DataSource, JsonFile, Overrides, WarmStart

if TYPE_CHECKING:
    from simulations.bench.accounting import AccountingRow
    from simulations.bench.accuracy import AccuracyRow, Comparison
    from simulations.bench.audit import AuditRow
    from simulations.bench.deployment import DeploymentRow
    from simulations.bench.ingest import IngestRow
    from simulations.bench.round import RoundRow
    from simulations.bench.search import SearchRow

bench_app = typer.Typer(no_args_is_help=True, help="Measure accuracy and speed on this machine.")
bench_app.command("growth")(growth_command)
bench_app.command("language")(language_command)
bench_app.command("lighter")(lighter_command)
bench_app.command("lists")(lists_command)
bench_app.command("peers")(peers_command)
bench_app.command("profile")(profile_command)
bench_app.command("ranking")(ranking_command)
bench_app.command("reach")(reach_command)
bench_app.command("secure")(secure_command)
bench_app.command("serve")(serve_command)
bench_app.command("size")(size_command)
bench_app.command("step")(step_command)
bench_app.command("words")(words_command)


@bench_app.command()
def accuracy(
    data: DataSource = None,
    warm_start: WarmStart = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NOISE[:EPSILON]", help=f"May be given often; {', '.join(SETTINGS)}."),
    ] = None,
    aggregation: Annotated[
        str, typer.Option(help="secure, or plain: a simulation, of settings with shared noise.")
    ] = "plain",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of every setting.")] = 3,
    baseline: Annotated[
        list[str] | None, typer.Option(help="May be given often; all of them by default.")
    ] = None,
    part: Annotated[str, typer.Option(help="test or validation.")] = "test",
    plot: Annotated[
        Path | None, typer.Option(help="Also draw NDCG over epsilon; .png or .svg.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Rank with every method, over several draws of the noise."""
    from simulations.bench.accuracy import BASELINES, as_json, measure

    named = {"data.source": data, "model.warm_start": warm_start}
    chosen_options = {k: v for k, v in named.items() if v is not None}
    config = load_config(config_file, set_ or [], chosen_options)
    if aggregation not in ("secure", "plain"):
        raise ConfigError(f"--aggregation {aggregation}: expected secure or plain")
    settings = [parse_setting(text, aggregation) for text in setting or SETTINGS]
    chosen = tuple(baseline) if baseline else BASELINES
    for name in chosen:
        if name not in BASELINES:
            raise ConfigError(f"--baseline {name}: expected one of {', '.join(BASELINES)}")
    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}: expected test or validation")
    console = Console()
    with console.status("Reading data") as status:
        rows, comparisons = measure(config, settings, seeds, chosen, part, status.update)
    print_accuracy(console, rows, comparisons)
    if plot is not None:
        from simulations.bench.utility_plots import plot_epsilon

        plot_epsilon(plot, rows)
    if json_file is not None:
        write_json(json_file, as_json(rows, comparisons))


@bench_app.command()
def accounting(
    rounds: Annotated[int, typer.Option(min=1, help="Of the ledger.")] = 10_000,
    settings: Annotated[int, typer.Option(min=1, help="Distinct ones among them.")] = 50,
    json_file: JsonFile = None,
) -> None:
    """Time what it takes to state the epsilon of a whole ledger, and to judge a round by it."""
    from simulations.bench.accounting import measure

    console = Console()
    with console.status("Composing ledgers"):
        rows = measure(rounds, settings)
    print_accounting(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


@bench_app.command()
def audit(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    canaries: Annotated[int, typer.Option(min=4, help="Half of them members.")] = 5000,
    json_file: JsonFile = None,
) -> None:
    """Bound epsilon from below by canaries in real private steps, and say what they cost."""
    from simulations.bench.audit import measure

    config = load_config(config_file, set_ or [])
    console = Console()
    with console.status("Auditing steps"):
        rows = measure(config, canaries)
    print_audit(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


@bench_app.command()
def deployment(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    organisations: Annotated[int, typer.Option(min=1, help="Agents and SuperNodes.")] = 3,
    users: Annotated[int, typer.Option(min=10, help="Of all organisations together.")] = 300,
    items: Annotated[int, typer.Option(min=50, help="Of the catalogue.")] = 200,
    rounds: Annotated[int, typer.Option(min=2, help="Adapter rounds.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """Deploy a federation on this machine by the operators' commands and time it."""
    from simulations.bench.deployment import measure

    config = load_config(config_file, set_ or [])
    console = Console()
    with console.status("Deploying") as status:
        rows = measure(config, organisations, users, items, rounds, status.update)
    print_deployment(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


@bench_app.command()
def ingest(
    interactions: Annotated[int, typer.Option(min=1000, help="Made up for this.")] = 1_000_000,
    postgresql: Annotated[
        str,
        typer.Option(
            metavar="URL", help="Of any database of a server; it makes up the rows, none is stored."
        ),
    ] = "",
    json_file: JsonFile = None,
) -> None:
    """Time the way of made-up interactions into a store, and their refresh, each on its own."""
    from simulations.bench.ingest import measure

    console = Console()
    with console.status("Making up interactions") as status:
        rows = measure(interactions, postgresql, status.update)
    print_ingest(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


@bench_app.command(name="round")
def round_(
    config_file: ConfigFile = None,
    set_: Overrides = None,
    organisations: Annotated[
        int, typer.Option(min=1, help="Of the rounds whose overhead is timed.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Whose overhead is timed.")] = 20,
    starts: Annotated[
        int, typer.Option(min=0, help="Of tacit simulate, to the first round; 0: none.")
    ] = 3,
    json_file: JsonFile = None,
) -> None:
    """Time what a round costs besides training, and the way to the first round."""
    from simulations.bench.round import first_round, overhead

    config = load_config(config_file, set_ or [])
    console = Console()
    with console.status("Timing rounds") as status:
        rows = [overhead(config, organisations, rounds)]
        if starts:
            status.update("Timing the way to the first round")
            rows.append(first_round(config, starts))
    print_rounds(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


@bench_app.command()
def search(
    data: DataSource = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
    items: Annotated[list[int] | None, typer.Option(min=1000, help="May be given often.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Of each way.")] = 200,
    approximate: Annotated[bool, typer.Option(help="Time faiss too, if installed.")] = True,
    json_file: JsonFile = None,
) -> None:
    """Find the best ten of made-up catalogues, exactly and approximately."""
    from simulations.bench.search import measure

    config = load_config(config_file, set_ or [], {} if data is None else {"data.source": data})
    console = Console()
    with console.status("Reading data") as status:
        rows = measure(config, items or [10_000, 1_000_000], queries, approximate, status.update)
    print_search(console, rows)
    if json_file is not None:
        write_json(json_file, {"rows": [asdict(row) for row in rows]})


def print_accounting(console: Console, rows: "Sequence[AccountingRow]") -> None:
    """Epsilon and seconds of each accountant."""
    table = measured_table("Accountant", "Rounds", "Settings", "Epsilon", "Seconds", left=1)
    for row in rows:
        table.add_row(
            row.accountant,
            str(row.rounds),
            str(row.settings),
            f"{row.epsilon:.4f}",
            f"{row.seconds:.4f}" if row.seconds < 0.1 else f"{row.seconds:.2f}",
        )
    console.print(table)


def print_audit(console: Console, rows: "Sequence[AuditRow]") -> None:
    """Lower bounds beside claims, and what the canaries cost."""
    table = measured_table(
        "Claim", "Sigma", "At least", "Of it", "Tests", "s a step", "without", "Change", left=0
    )
    for row in rows:
        table.add_row(
            f"{row.epsilon:g}",
            f"{row.noise_multiplier:.3f}",
            f"{row.low:.3f}",
            f"{row.low / row.epsilon:.0%}",
            "pass" if row.passed else "FAIL",
            f"{row.seconds_a_step:.3f}",
            f"{row.seconds_without:.3f}",
            f"{row.update_difference:.0e}",
        )
    console.print(table)
    console.print("  100 steps at sampling rate 0.1; Change is that of an update, same noise.")


def print_deployment(console: Console, rows: "Sequence[DeploymentRow]") -> None:
    """Seconds of each way to run the same federation."""
    table = measured_table(
        "Way", "Orgs", "Users", "Rounds", "Start", "Round 1", "Round", "MB", left=1
    )
    for row in rows:
        table.add_row(
            row.name,
            str(row.organisations),
            str(row.users),
            str(row.rounds),
            f"{row.start_s:.1f} s",
            f"{row.first_round_s:.1f} s",
            f"{row.round_s:.2f} s",
            f"{row.loopback_bytes / 1e6:.1f}" if row.loopback_bytes else "-",
        )
    console.print(table)
    console.print("  MB cross loopback in a round, all processes together; Round is a median.")


def print_accuracy(
    console: Console, rows: "Sequence[AccuracyRow]", comparisons: "Sequence[Comparison]"
) -> None:
    """Means over draws, with the standard error over users and the spread over draws."""
    if rows:
        console.print(f"{rows[0].data}, {rows[0].protocol}; mean ± standard error (spread)")
    table = measured_table(
        "Method", "Noise", "Epsilon", "HR@k", "NDCG@k", "Cold NDCG@k", "Draws", left=2
    )
    for row in rows:
        table.add_row(
            row.label,
            row.noise if row.aggregation == "plain" else f"{row.noise}, secure",
            _or_dash(row.epsilon, "g"),
            _figure(row.hr10, row.hr10_se, row.hr10_spread if row.seeds > 1 else None),
            _figure(row.ndcg10, row.ndcg10_se, row.ndcg10_spread if row.seeds > 1 else None),
            _or_dash(row.cold_ndcg10, ".4f"),
            str(row.seeds),
        )
    console.print(table)
    from simulations.methods import LABELS

    for found in comparisons:
        share = ", its share of the budget" if found.part == "share" else ""
        console.print(
            f"{LABELS[found.method]} less {LABELS[found.less].lower()}{share}, {found.noise} "
            f"noise, epsilon "
            f"{_or_dash(found.epsilon, 'g')}: NDCG@k {found.ndcg10_mean:+.4f} "
            f"(95% {found.ndcg10_low:+.4f} to {found.ndcg10_high:+.4f})",
            highlight=False,
        )


def print_ingest(console: Console, rows: "Sequence[IngestRow]") -> None:
    """Seconds and memory of a process that does nothing else."""
    table = measured_table(
        "Source", "Task", "Interactions", "Seconds", "Of processor", "Peak MB", left=2
    )
    for row in rows:
        table.add_row(
            row.source,
            row.task,
            f"{row.interactions:,}",
            f"{row.wall_s:.2f}",
            f"{row.cpu_s:.2f}",
            f"{row.peak_mb:.0f}",
        )
    console.print(table)


def print_rounds(console: Console, rows: "Sequence[RoundRow]") -> None:
    """Seconds, with their range."""
    table = measured_table(
        "Time", "Data", "Organisations", "Samples", "Median s", "Range s", left=2
    )
    for row in rows:
        table.add_row(
            row.name,
            row.data,
            str(row.organisations),
            str(row.samples),
            f"{row.median_s:.3f}",
            f"{row.least_s:.3f} to {row.greatest_s:.3f}",
        )
    console.print(table)


def print_search(console: Console, rows: "Sequence[SearchRow]") -> None:
    """Milliseconds, memory and recall of each way."""
    table = measured_table(
        "Way", "Items", "Dim", "p50 ms", "p99 ms", "MB", "Build s", "Recall@10", left=1
    )
    for row in rows:
        table.add_row(
            row.method,
            f"{row.items:,}",
            str(row.dim),
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.size_mb:,.0f}",
            f"{row.build_s:.1f}",
            f"{row.recall10:.4f}",
        )
    console.print(table)
    console.print("  MB beside the vectors; at once: wall time over queries.")


def _figure(mean: float, error: float, spread: float | None) -> str:
    return f"{mean:.4f} ± {error:.4f}" + ("" if spread is None else f" ({spread:.4f})")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

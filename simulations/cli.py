"""The command line: every command of ``tacit`` hangs here."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from audit.cli import audit_app, server_privacy
from audit.empirical_cli import empirical_command
from audit.views_cli import explain_command, forecast_command, report_command
from client.cli import client_app
from client.policy_cli import policy_app
from client.recommend import options
from server.cli import register_commands
from shared.config import Config, load_config
from shared.errors import DataError, RunError, TacitError
from shared.files import organisations_directory
from shared.sections import to_toml
from simulations.bench.cli import bench_app
from simulations.options import (
    AggregationMode,
    BaseName,
    ConfigFile,
    DataSource,
    Overrides,
    WarmStart,
)
from simulations.pretrain_cli import pretrain_command

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Recommendation that organisations train together without pooling anyone's history.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make data.")
server_app = typer.Typer(no_args_is_help=True, help="The federation's side.")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(policy_app, name="policy")
app.add_typer(client_app, name="client")
app.add_typer(audit_app, name="audit")
app.add_typer(server_app, name="server")
audit_app.command("report")(report_command)
audit_app.command("forecast")(forecast_command)
audit_app.command("explain")(explain_command)
audit_app.command("empirical")(empirical_command)
register_commands(server_app)
server_app.command("privacy")(server_privacy)
app.command("pretrain")(pretrain_command)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command."""


@app.command()
def simulate(
    config_file: ConfigFile = None,
    data: DataSource = None,
    orgs: Annotated[int | None, typer.Option(help="Number of organisations.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="iid, dirichlet:ALPHA or column:NAME.")
    ] = None,
    base: BaseName = None,
    warm_start: WarmStart = None,
    epsilon: Annotated[float | None, typer.Option(help="Budget of each organisation.")] = None,
    noise: Annotated[str | None, typer.Option(help="own, shared or none.")] = None,
    aggregation: AggregationMode = None,
    rounds: Annotated[int | None, typer.Option(help="Adapter rounds.")] = None,
    engine: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the experiment.")] = None,
    user_column: Annotated[str | None, typer.Option(help="Column of users.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of items.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column that matches items across organisations.")
    ] = None,
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    print_config: Annotated[bool, typer.Option(help="Print all options and stop.")] = False,
) -> None:
    """Simulate a private federation on this machine and recommend."""
    named = {
        "data.source": data,
        "partition.organisations": orgs,
        "partition.scheme": partition,
        "base.name": base,
        "model.warm_start": warm_start,
        "privacy.epsilon": epsilon,
        "privacy.noise": noise,
        "aggregation.mode": aggregation,
        "training.rounds": rounds,
        "run.engine": engine,
        "run.seed": seed,
        "data.user_column": user_column,
        "data.item_column": item_column,
        "data.time_column": time_column,
        "data.rating_column": rating_column,
        "data.title_column": title_column,
        "data.key_column": key_column,
    }
    chosen = {k: v for k, v in named.items() if v is not None}
    if resume is not None and (chosen or set_ or config_file or out):
        raise RunError("--resume takes the run's own configuration; give no other option")
    file = resume / "config.toml" if resume is not None else config_file
    config = load_config(file, set_ or [], chosen)
    if print_config:
        sys.stdout.write(to_toml(config))
        return
    from simulations.simulate import simulate as run

    directory = resume or out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    run(config, directory, Console(), resume=resume is not None)


@app.command()
def recommend(
    run: Annotated[Path, typer.Option(help="Run folder of tacit simulate.")],
    org: Annotated[str, typer.Option(help="Name of the organisation.")],
    user: options.User,
    k: options.Length = 10,
    need: options.Need = None,
    interest: options.Interest = None,
    mode: options.ModeOption = "hybrid",
    filters: options.FilterOption = None,
    diversity: options.Diversity = 0.0,
    popularity_damping: options.Damping = 0.0,
    seen: options.Seen = False,
    reasons: options.Reasons = False,
) -> None:
    """Recommend items to one user of one organisation."""
    from client.recommend.listing import print_recommendations
    from client.recommend.opening import open_recommender

    query = options.query_of(k, need, interest, mode, filters, diversity, popularity_damping, seen)
    recommender = open_recommender(organisation_folder(run, org), run_config(run))
    print_recommendations(Console(), recommender, user, query, reasons)


@data_app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    users: Annotated[int, typer.Option(min=1)] = 2000,
    items: Annotated[int, typer.Option(min=1)] = 1000,
    orgs: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate a catalogue and histories. Nothing in them is real."""
    from simulations.progress import Screen
    from simulations.synth import synthesise

    console = Console()
    screen = Screen(console)
    with screen.live(), screen.stage("Generating histories", users) as stage:
        synthesise(users, items, orgs, seed, out, stage.counter)
    console.print(f"Nothing in [bold]{out}[/bold] is real: it was generated.")


def run_config(run: Path) -> Config:
    """The configuration of a run folder.

    Raises:
        RunError: if it is none.
    """
    path = run / "config.toml"
    if not path.exists():
        raise RunError(f"{run}: holds no config.toml; give the run folder of tacit simulate")
    return load_config(path)


def organisation_folder(run: Path, name: str) -> Path:
    """Folder of an organisation by its name.

    Raises:
        DataError: if there is none; names those that there are.
    """
    from client.directory import read_policy

    within = organisations_directory(run, run_config(run).run.organisations)
    found = {}
    for folder in sorted(within.glob("0*")):
        found[read_policy(folder).organisation.name] = folder
    if name not in found:
        raise DataError(f"{run}: has no organisation {name!r}; it has {', '.join(found)}")
    return found[name]


def main() -> None:
    """Run the command; an error that a person can mend is a sentence and exit status 2."""
    try:
        app()
    except TacitError as error:
        if "--debug" in sys.argv:
            raise
        message = Text.assemble(("Error: ", "red"), str(error))
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(2)

"""``tacit pretrain``: the command around ``simulations.pretrain``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shared.config import load_config
from simulations.options import BaseName, ConfigFile, Overrides


def pretrain_command(
    data: Annotated[str, typer.Option(help="movielens-100k or a path; public histories.")],
    out: Annotated[Path, typer.Option(help="Directory to write; must not exist.")],
    licence: Annotated[str, typer.Option(help="Licence of the data, for the card.")] = "not stated",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data, at most.")] = 8,
    base: BaseName = None,
    config_file: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Train a warm start for the user model on public histories, without privacy."""
    from simulations.pretrain import pretrain
    from simulations.progress import Screen

    named = {"data.source": data} | ({"base.name": base} if base is not None else {})
    config = load_config(config_file, set_ or [], named)
    console = Console()
    screen = Screen(console)
    with screen.live(), screen.stage("Training on public histories", epochs) as stage:
        found = pretrain(
            config,
            out,
            licence,
            epochs,
            progress=lambda epoch, total, loss: stage.at(epoch, total, f"held-out loss {loss:.4f}"),
        )
    console.print(
        f"Held-out users' loss: {found.loss[0]:.4f} before training, {min(found.loss):.4f} after "
        f"epoch {found.epochs}, which was kept."
    )
    console.print(f"Use it with [bold]tacit simulate --warm-start {found.directory}[/bold].")

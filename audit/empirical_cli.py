"""``tacit audit empirical``: what the canaries of a run say of its claim."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.config import load_config

if TYPE_CHECKING:
    from audit.empirical import EmpiricalReport


def empirical_command(
    run: Annotated[Path, typer.Argument(help="Run folder, of a run with audit.canaries.")],
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.svg or .png).")] = None,
) -> None:
    """Bound epsilon from below by the run's canaries; exit status 1 if the claim is refuted."""
    from audit.empirical import print_report

    report = audited(run)
    console = Console()
    print_report(console, report)
    if plot is not None:
        from audit.empirical_plot import plot as draw

        console.print(f"The picture is in [bold]{draw(report, plot)}[/bold].")
    if not report.passed:
        raise typer.Exit(1)


def audited(run: Path) -> "EmpiricalReport":
    """The audit of a run folder, wherever its organisations are.

    Raises:
        RunError: if there is nothing to audit.
    """
    from audit.empirical import audit_run

    chosen = ""
    if (run / "config.toml").exists():
        chosen = load_config(run / "config.toml").run.organisations
    if not chosen:
        return audit_run(run)
    return audit_run(Path(chosen), json.loads((run / "run.json").read_text())["run"])

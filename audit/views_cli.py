"""Commands that show what a ledger means: ``tacit audit report``, ``forecast`` and ``explain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from shared.errors import PrivacyError
from shared.words import plural

if TYPE_CHECKING:
    from shared.spending import Contents

Source = Annotated[
    Path, typer.Argument(help="An organisation's folder, its ledger.sqlite or a bundle.")
]
Plot = Annotated[Path | None, typer.Option(help="Draw a chart into a .svg or .png file.")]


def report_command(
    source: Source,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("audit-report.html"),
) -> None:
    """Write a page for a data-protection officer: what left, at what cost, and what is left."""
    from audit.bundle import read_evidence
    from audit.report import write_report

    checked = write_report(read_evidence(source), out)
    console = Console()
    if checked.not_private:
        console.print("NOT PRIVATE: the page begins with why.", style="bold red")
    if checked.faults:
        found = plural(len(checked.faults), "fault")
        console.print(f"NOT VERIFIED: {found}; the page begins with them.", style="bold red")
    console.print(Text.assemble("Report: ", (str(out), "bold")), soft_wrap=True)
    if checked.faults:
        raise typer.Exit(1)


def forecast_command(
    source: Source,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How far; by default a bit past the budget.")
    ] = None,
    plot: Plot = None,
) -> None:
    """Show how many more rounds the budget lets run, under these settings and others."""
    from audit.forecast import forecast, print_forecast

    made = forecast(_verified(source), rounds)
    print_forecast(Console(), made)
    if plot is not None:
        from audit import charts

        charts.save(charts.forecast_chart(made.points, made.budget, made.fits), plot)


def explain_command(
    source: Annotated[
        Path | None,
        typer.Argument(help="An organisation's folder, its ledger.sqlite or a bundle."),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Instead of a ledger: an epsilon.")] = None,
    delta: Annotated[float | None, typer.Option(help="The delta of that epsilon.")] = None,
    plot: Plot = None,
) -> None:
    """Say what an epsilon means: how often any attacker can be right about one person."""
    from audit.explain import explain_ledger, explain_pair, print_explanation

    if source is not None and epsilon is None and delta is None:
        explanation = explain_ledger(_verified(source))
    elif source is None and epsilon is not None and delta is not None:
        explanation = explain_pair(epsilon, delta)
    else:
        raise PrivacyError("give either a ledger, or --epsilon and --delta together")
    print_explanation(Console(), explanation)
    if plot is not None:
        from audit import charts

        charts.save(charts.tradeoff_chart(explanation.curve()), plot)


def _verified(source: Path) -> "Contents":
    from audit.bundle import read_evidence
    from audit.verify import verify_ledger
    from shared.spending import read_contents

    evidence = read_evidence(source)
    faults = verify_ledger(evidence).faults
    if faults:
        raise PrivacyError(
            f"{source}: has {plural(len(faults), 'fault')}, the first at record "
            f"{faults[0].sequence}: {faults[0].sentence}. Its figures mean nothing until it is "
            "explained; tacit audit verify lists every fault"
        )
    return read_contents(evidence.stored)

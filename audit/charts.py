"""Charts of an audit: files in light colours, or inline SVG that takes the page's own."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from shared.errors import PrivacyError
from shared.files import atomic_path

# Light colours of the page by the custom properties that hold them.
PALETTE = {
    "--ink": "#1d2127",
    "--muted": "#5b6470",
    "--line": "#dfe2e6",
    "--good": "#12857a",
    "--alarm": "#a51d2d",
}
INK, MUTED, LINE, GOOD, ALARM = PALETTE.values()
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tacit audit",
    "font.size": 12,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.constrained_layout.use": True,
}
DASHES = (0, (4, 3))


def spending_chart(
    points: Sequence[tuple[int, float]], budget: float | None, runs: Sequence[tuple[int, str]]
) -> Figure:
    """Epsilon spent after so many releases, as steps up to the budget's line.

    Args:
        points: number of releases, epsilon; the last is what is spent.
        budget: most epsilon, or None.
        runs: number of releases before each run, and its date.
    """
    figure, ax = _figure(270.0)
    counts, epsilons = zip((0, 0.0), *points, strict=True)
    ax.step(counts, epsilons, where="post", color=GOOD, linewidth=2)
    ax.fill_between(counts, epsilons, step="post", color=GOOD, alpha=0.12, linewidth=0)
    ax.plot(counts[-1], epsilons[-1], "o", color=GOOD, markersize=6, clip_on=False)
    top = max(epsilons[-1], budget or 0.0) * 1.25
    budget_line(ax, budget)
    for before, date in runs:
        ax.axvline(before, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        ax.annotate(date, (before, top), (4, -2), textcoords="offset points", va="top", color=MUTED)
    ax.set(ylim=(0, top), xlim=(0, counts[-1] * 1.02), xlabel="Releases", ylabel="Epsilon spent")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def forecast_chart(
    points: Sequence[tuple[int, float]], budget: float | None, fits: int | None
) -> Figure:
    """Epsilon after so many more rounds.

    Args:
        points: number of further rounds, epsilon; the first is what is spent.
        budget: most epsilon, or None.
        fits: most rounds that fit into it, or None.
    """
    figure, ax = _figure(300.0)
    rounds, epsilons = zip(*points, strict=True)
    ax.plot(rounds, epsilons, color=GOOD, linewidth=2)
    ax.plot(rounds[0], epsilons[0], "o", color=GOOD, markersize=6, clip_on=False)
    budget_line(ax, budget)
    if fits is not None and fits <= rounds[-1]:
        ax.axvline(fits, color=ALARM, linewidth=1.2, linestyle=DASHES)
        ax.annotate(
            f"{fits:,} fit", (fits, 0), (-5, 6), textcoords="offset points", ha="right", color=ALARM
        )
    ax.set(
        ylim=(0, max(epsilons[-1], budget or 0.0) * 1.2),
        xlim=(0, rounds[-1]),
        xlabel="Further rounds",
        ylabel="Epsilon",
    )
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def tradeoff_chart(curve: Sequence[tuple[float, float]]) -> Figure:
    """Most that an attacker can find, against how many it wrongly accuses.

    Args:
        curve: false-positive rate, bound of the true-positive rate.
    """
    figure, ax = _figure(380.0, width_pt=440.0)
    wrong, found = zip(*curve, strict=True)
    ax.fill_between(wrong, found, 1.0, color=MUTED, alpha=0.12, linewidth=0)
    ax.plot(wrong, found, color=GOOD, linewidth=2)
    ax.plot((0, 1), (0, 1), color=MUTED, linestyle=DASHES, linewidth=1.2)
    ax.annotate("guessing", (0.72, 0.68), color=MUTED, va="top")
    ax.set_title("No attack lies above the line", loc="left", color=MUTED, fontsize=12)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="Wrongly accused, of those not in the data",
        ylabel="Found, of those in the data",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a chart to a file whose name ends in .svg or .png.

    Raises:
        PrivacyError: for another ending.
    """
    if path.suffix not in (".svg", ".png"):
        raise PrivacyError(f"{path}: a chart is written as .svg or .png; give one of these endings")
    with mpl.rc_context(STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata={"Date": None})


def inline(figure: Figure, description: str) -> str:
    """The chart as an ``<svg>`` element for HTML: no prolog, no addresses, the page's colours.

    Args:
        figure: to draw.
        description: what it shows, for those who cannot see it; no markup.
    """
    text = StringIO()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata=unsaid, transparent=True)
    width, height = figure.get_size_inches() * 72
    opening = f'<svg role="img" aria-label="{description}" viewBox="0 0 {width:g} {height:g}">'
    drawing = text.getvalue()
    drawing = opening + drawing[drawing.index(">", drawing.index("<svg")) + 1 :]
    # Ids of groups repeat from chart to chart, and nothing refers to them.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing).replace("xlink:href", "href")
    for name, colour in PALETTE.items():
        drawing = drawing.replace(colour, f"var({name})")
    return drawing


def _figure(height_pt: float, width_pt: float = 680.0) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_pt / 72, height_pt / 72))
        ax = figure.subplots()
    ax.set_facecolor("none")
    ax.grid(axis="y")
    ax.tick_params(length=0)
    return figure, ax


def budget_line(ax: Axes, budget: float | None, colour: str = ALARM) -> None:
    """A dashed line at the budget, with its name at the right end; none without a budget."""
    if budget is not None:
        ax.axhline(budget, color=colour, linestyle=DASHES, linewidth=1.2)
        ax.annotate(
            f"budget {budget:g}",
            (1, budget),
            (0, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=colour,
        )

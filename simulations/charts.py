"""Charts of a run as inline SVG whose colours and fonts come from the page that holds them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from audit.charts import budget_line

Shape = Literal["wide", "narrow"]
"""For a desktop or for a phone: the page shows one of the two, so that text keeps its size."""

WIDTHS_PT = {"wide": 720.0, "narrow": 330.0}
LABEL_CHARACTERS = {"wide": 34, "narrow": 24}

# Colours that stand for the page's custom properties until the SVG is written.
_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--private",
    "#050505": "--noise-free",
    "#060606": "--pooled",
    "#070707": "--series-1",
    "#080808": "--series-2",
    "#090909": "--series-3",
    "#0a0a0a": "--series-4",
}
_COLOUR = {variable: colour for colour, variable in _VARIABLES.items()}
_INK, _MUTED, _LINE = (_COLOUR[v] for v in ("--ink", "--muted", "--line"))
SERIES = ("--series-1", "--series-2", "--series-3", "--series-4")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Bar:
    """A method's figures: means and standard errors; ``colour`` is a custom property."""

    label: str
    colour: str
    hr: float
    hr_se: float
    ndcg: float
    ndcg_se: float


@dataclass(frozen=True)
class Curve:
    """A run's figures over its rounds, ``(round, value)`` each."""

    colour: str
    utility: Sequence[tuple[int, float]]
    epsilon: Sequence[tuple[int, float]]


def results_chart(bars: Sequence[Bar], cutoff: int, shape: Shape) -> str:
    """HR and NDCG at ``cutoff`` of every method, as horizontal bars with standard errors."""
    panels = (2, 1) if shape == "narrow" else (1, 2)
    height = 26.0 * len(bars) + 60
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"results-{shape}"}):
        figure = _figure(shape, height * panels[0])
        axes = figure.subplots(*panels, sharey=shape == "wide", squeeze=False).ravel()
        for ax, metric in zip(axes, ("hr", "ndcg"), strict=True):
            means = [getattr(bar, metric) for bar in bars]
            errors = [getattr(bar, f"{metric}_se") for bar in bars]
            colours = [_COLOUR[bar.colour] for bar in bars]
            places = np.arange(len(bars))
            ax.barh(places, means, 0.62, color=colours)
            ax.errorbar(means, places, xerr=errors, fmt="none", ecolor=_INK, elinewidth=1.2)
            ends = np.add(means, errors)
            for place, end, mean in zip(places, ends, means, strict=True):
                ax.annotate(
                    f"{mean:.3f}", (end, place), (5, 0), textcoords="offset points", va="center"
                )
            ax.set_xlim(0, max(1e-9, float(ends.max()) * 1.22))
            ax.set_title(f"{metric.upper()}@{cutoff}")
            ax.set_yticks(places, [_short(bar.label, shape) for bar in bars])
            _quiet(ax, "x")
        axes[0].invert_yaxis()
        if shape == "narrow":
            axes[1].invert_yaxis()
        return _svg(figure, f"Bars of hit rate and NDCG at {cutoff} for {len(bars)} methods")


def rounds_chart(curves: Sequence[Curve], cutoff: int, budget: float | None, shape: Shape) -> str:
    """Validation NDCG over rounds and, where any was spent, epsilon over rounds beneath it."""
    with_utility = any(curve.utility for curve in curves)
    with_epsilon = any(curve.epsilon for curve in curves)
    panels = with_utility + with_epsilon
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"rounds-{shape}"}):
        figure = _figure(shape, 190.0 * panels + 30)
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False).ravel()
        if with_utility:
            for curve in curves:
                _line(axes[0], curve.utility, curve.colour, marker="o")
            axes[0].set_title(f"Validation NDCG@{cutoff}")
            axes[0].margins(y=0.2)
        if with_epsilon:
            for curve in curves:
                _line(axes[-1], curve.epsilon, curve.colour, marker="")
            budget_line(axes[-1], budget, _MUTED)
            axes[-1].set_title("Epsilon spent")
            top = max(value for curve in curves for _, value in curve.epsilon)
            axes[-1].set_ylim(0, 1.2 * max(top, budget or 0.0))
        for ax in axes:
            _quiet(ax, "y")
            ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes[-1].set_xlabel("Round")
        return _svg(figure, "Curves over rounds: validation NDCG and epsilon spent")


def bytes_chart(names: Sequence[str], kilobytes: Sequence[Sequence[float]], shape: Shape) -> str:
    """What left every organisation, as bars stacked by kind of release.

    Args:
        names: of the organisations.
        kilobytes: ``[kinds][organisations]``; kinds are coloured in the order of ``SERIES``.
        shape: of the page.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"bytes-{shape}"}):
        figure = _figure(shape, 24.0 * len(names) + 56)
        ax = figure.subplots()
        places, left = np.arange(len(names)), np.zeros(len(names))
        for number, row in enumerate(kilobytes):
            colour = _COLOUR[SERIES[number % len(SERIES)]]
            ax.barh(places, row, 0.62, left=left, color=colour)
            left = left + row
        for place, end in zip(places, left, strict=True):
            ax.annotate(
                f"{end:,.0f}", (end, place), (5, 0), textcoords="offset points", va="center"
            )
        ax.set_xlim(0, max(1e-9, float(left.max()) * 1.12))
        ax.set_yticks(places, [_short(name, shape) for name in names])
        ax.invert_yaxis()
        ax.set_xlabel("kB sent")
        _quiet(ax, "x")
        return _svg(figure, f"Stacked bars of kilobytes sent by {len(names)} organisations")


def stages_chart(rounds: Sequence[int], seconds: Sequence[Sequence[float]], shape: Shape) -> str:
    """What every round took, as bars stacked by group of stages.

    Args:
        rounds: their numbers.
        seconds: ``[groups][rounds]``; groups are coloured in the order of ``SERIES``.
        shape: of the page.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"stages-{shape}"}):
        figure = _figure(shape, 220.0)
        ax = figure.subplots()
        below = np.zeros(len(rounds))
        for number, row in enumerate(seconds):
            ax.bar(rounds, row, 0.8, bottom=below, color=_COLOUR[SERIES[number % len(SERIES)]])
            below = below + row
        ax.set_title("Seconds of every round")
        ax.set_xlabel("Round")
        _quiet(ax, "y")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return _svg(figure, f"Stacked bars of seconds by stage in {len(rounds)} rounds")


def _figure(shape: Shape, height_pt: float) -> Figure:
    return Figure(figsize=(WIDTHS_PT[shape] / 72, height_pt / 72), facecolor="none")


def _short(label: str, shape: Shape) -> str:
    """The label, cut so that it leaves room for the bars."""
    most = LABEL_CHARACTERS[shape]
    return label if len(label) <= most else f"{label[: most - 1].rstrip()}…"


def _line(ax: Axes, points: Sequence[tuple[int, float]], colour: str, marker: str) -> None:
    if points:
        rounds, values = zip(*points, strict=True)
        ax.plot(rounds, values, color=_COLOUR[colour], linewidth=2, marker=marker, markersize=5)


def _quiet(ax: Axes, axis: Literal["x", "y"]) -> None:
    ax.set_facecolor("none")
    ax.grid(axis=axis)
    ax.tick_params(length=0)
    ax.xaxis.set_tick_params(labelcolor=_MUTED)
    if axis == "x":
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.spines["left" if axis == "y" else "bottom"].set_visible(False)


def _svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element for HTML: no prolog, no metadata, no addresses, no ids."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    width, height = figure.get_size_inches() * 72
    opening = f'<svg role="img" aria-label="{description}" viewBox="0 0 {width:g} {height:g}">'
    svg = re.sub(r"^.*?<svg [^>]*>", opening, text.getvalue(), count=1, flags=re.DOTALL)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href=", "href=")
    return re.sub(r'style="[^"]*"', lambda found: _themed(found.group()), svg)


def _themed(style: str) -> str:
    """A style attribute with the page's colours and without a font family."""
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    style = re.sub(r"font: (?:\w+ )*([\d.]+)px [^;]*", r"font-size: \1px", style)
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style

"""Pictures of growth: seconds and memory over size, one file for each thing that grows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from shared.files import atomic_path
from simulations.bench.growth import Fit, GrowthRow


def write_plots(folder: Path, rows: Sequence[GrowthRow], fits: Sequence[Fit]) -> list[Path]:
    """Write ``growth-AXIS.png`` for each axis.

    Args:
        folder: made where it is missing.
        rows, fits: of one measurement.
    """
    return [
        _write(folder / f"growth-{axis}.png", axis, rows, fits)
        for axis in dict.fromkeys(row.axis for row in rows)
    ]


def _write(path: Path, axis: str, rows: Sequence[GrowthRow], fits: Sequence[Fit]) -> Path:
    exponents = {fit.what: fit.exponent for fit in fits if fit.axis == axis}
    figure = Figure(figsize=(10, 4), layout="constrained")
    times, memory = figure.subplots(1, 2)
    mine = [row for row in rows if row.axis == axis]
    for number, what in enumerate(dict.fromkeys(row.what for row in mine)):
        some = [row for row in mine if row.what == what]
        sizes, colour = [row.size for row in some], f"C{number}"
        label = f"{what}: exponent {exponents[what]:.2f}" if what in exponents else what
        times.plot(sizes, [row.seconds for row in some], "o-", color=colour, label=label)
        memory.plot(sizes, [row.anonymous_mb for row in some], "o-", color=colour, label=what)
        memory.plot(sizes, [row.resident_mb for row in some], ":", color=colour)
    # Whole decades: on a narrower scale what is flat would look steep.
    seconds = [row.seconds for row in mine]
    decades = 10.0 ** np.floor(np.log10(min(seconds))), 10.0 ** np.ceil(np.log10(max(seconds)))
    times.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds", ylim=decades)
    memory.set(xscale="log", xlabel=axis, ylabel="MB; dotted: with mapped files", ylim=(0, None))
    for ax in (times, memory):
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path

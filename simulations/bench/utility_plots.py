"""Pictures of ranking quality: over epsilon, and over the number of users."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from shared.files import atomic_path
from simulations.bench.accuracy import AccuracyRow
from simulations.bench.size import SizeRow
from simulations.methods import LABELS

STYLES = {"statistics": "--", "adapter": ":", "federation": "-", "personalised": "-."}
COLOURS = {"shared": "C0", "own": "C1"}


def plot_epsilon(path: Path, rows: Sequence[AccuracyRow]) -> None:
    """NDCG over epsilon by part and noise; what has no noise as level lines.

    Args:
        path: of the picture; its ending says which format.
        rows: of one ``tacit bench accuracy``.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for noise, colour in COLOURS.items():
        for method, style in STYLES.items():
            some = sorted(
                (
                    (row.epsilon, row.ndcg10, row.ndcg10_spread)
                    for row in rows
                    if (row.method, row.part, row.noise) == (method, "whole", noise)
                    and row.epsilon is not None
                ),
            )
            if some:
                epsilon, mean, spread = zip(*some, strict=True)
                named = f"{LABELS[method]}, {noise} noise"
                ax.errorbar(epsilon, mean, spread, fmt=f"o{style}", color=colour, label=named)
    level = [row for row in rows if row.epsilon is None and row.part == "whole"]
    for row in level:
        if row.method in ("federation", "popularity", "sasrec", "ease", "by_itself"):
            strong, left = row.method == "federation", row.method == "sasrec"
            ax.axhline(row.ndcg10, color="black" if strong else "0.6", linewidth=1)
            ax.annotate(
                f"{row.label}, no noise",
                # SASRec and EASE lie close together.
                (0.0 if left else 1.0, row.ndcg10),
                xycoords=("axes fraction", "data"),
                ha="left" if left else "right",
                va="bottom",
                fontsize=8,
            )
    epsilons = sorted({row.epsilon for row in rows if row.epsilon is not None})
    ax.set(xscale="log", xlabel="epsilon", ylabel="NDCG@10", ylim=(0, None))
    ax.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    ax.minorticks_off()
    _finish(figure, path)


def plot_size(path: Path, rows: Sequence[SizeRow]) -> None:
    """NDCG over the number of users by method, with standard errors.

    Args:
        path: of the picture; its ending says which format.
        rows: of one ``tacit bench size``.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for method in dict.fromkeys(row.method for row in rows):
        some = [row for row in rows if row.method == method]
        ax.errorbar(
            [row.users for row in some],
            [row.ndcg10 for row in some],
            [row.ndcg10_se for row in some],
            fmt="o-",
            label=method,
        )
    ax.set(xscale="log", xlabel="users", ylabel="NDCG@10", ylim=(0, None))
    _finish(figure, path)


def _finish(figure: Figure, path: Path) -> None:
    for ax in figure.axes:
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=120)

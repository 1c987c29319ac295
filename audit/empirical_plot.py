"""The picture of an empirical audit: bounds beside claims, and scores beside planned normals."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from audit.bounds import CONFIDENCE
from audit.empirical import EmpiricalReport

ENTERED, ABSENT, BOUND, CLAIM = "#c2410c", "#475569", "#2563eb", "#0f172a"


def plot(report: EmpiricalReport, path: Path) -> Path:
    """Write the picture; the ending of ``path`` (``.svg``, ``.png``) says in which form."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}):
        rows = len(report.bounds)
        panels = len(report.histograms)
        height = max(3.4, 0.32 * rows + 1.2)
        figure = Figure(figsize=(4.6 + 3.6 * panels, height), layout="constrained")
        axes = figure.subplots(1, 1 + panels, width_ratios=[1.3, *[1.0] * panels])
        ax = axes[0]
        places = np.arange(rows)
        claims = np.array([b.claim for b in report.bounds])
        # Without a guarantee a claim or a bound is infinite: a bar then ends at the edge.
        edge = 3.0 * claims[np.isfinite(claims)].max(initial=1.0)
        low = np.minimum([b.low for b in report.bounds], edge)
        ax.barh(places, low, 0.6, color=BOUND, label=f"at least ({CONFIDENCE:.0%} confidence)")
        finite = np.where(np.isfinite(claims), claims, np.nan)
        ax.scatter(finite, places, marker="|", s=160, color=CLAIM, label="claim")
        ax.set_yticks(places, [b.where for b in report.bounds])
        ax.invert_yaxis()
        ax.set_xlabel(f"epsilon at delta {report.delta:.1e}")
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        for ax, found in zip(axes[1:], report.histograms, strict=True):
            ax.stairs(found.absent, found.edges, color=ABSENT, fill=True, alpha=0.35)
            ax.stairs(found.entered, found.edges, color=ENTERED, fill=True, alpha=0.35)
            at = np.linspace(found.edges[0], found.edges[-1], 400)
            for mean, colour, label in ((0.0, ABSENT, "reserves"), (1.0, ENTERED, "entered")):
                density = stats.norm.pdf(at, mean, found.deviation)
                ax.plot(at, density, color=colour, linewidth=1.5, label=label)
            ax.set_title(found.kind)
            ax.set_xlabel("score, in clipping norms")
            ax.set_yticks([])
            ax.legend(frameon=False, title="line: as planned", fontsize=8, title_fontsize=8)
        figure.savefig(path, dpi=150)
    return path

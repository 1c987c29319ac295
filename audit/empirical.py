"""``tacit audit empirical``: what the canaries of a run say of its epsilon and its noise.

The run must have been made with ``audit.canaries`` set. Everything is read from the records that
the organisations keep; nothing is trained, and nothing that trains is loaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from audit.bounds import CONFIDENCE, EpsilonBound, Scores, bound_epsilon
from audit.canary_checks import FALSE_ALARM, Check, check_all
from audit.canary_series import (
    ALL,
    Series,
    enough,
    joint_scores,
    opened,
    pooled,
    read_series,
    steady,
)
from shared.errors import RunError

KINDS = ("popularity", "cooccurrence", "step")
BINS = 80
SHOWN_DEVIATIONS = 5.0


@dataclass(frozen=True)
class Histogram:
    """Scores of one kind of release over all organisations.

    Attributes:
        kind: of release.
        deviation: planned, of a score.
        edges: ``[BINS + 1]``.
        entered, absent: ``[BINS]`` densities of members that entered and of reserves.
    """

    kind: str
    deviation: float
    edges: npt.NDArray[np.float64]
    entered: npt.NDArray[np.float64]
    absent: npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmpiricalReport:
    """The audit of one run.

    Attributes:
        run: its public name.
        noise: ``own`` or ``shared``, as planned.
        delta: at which epsilon is stated.
        bounds: of every organisation against its own noise alone and, last, of all together.
        checks: of the record.
        histograms: of scores.
    """

    run: str
    noise: str
    delta: float
    bounds: tuple[EpsilonBound, ...]
    checks: tuple[Check, ...]
    histograms: tuple[Histogram, ...]

    @property
    def least_p_value(self) -> float:
        """Below it a test fails."""
        return FALSE_ALARM / len(self.checks)

    @property
    def faults(self) -> list[str]:
        """A sentence for each claim that the record refutes; empty if there is none."""
        sentences = [
            f"{b.where}: epsilon is at least {b.low:.3f}, the claim is {b.claim:.3f}: more was "
            "released than was counted; stop the run and keep its records"
            for b in self.bounds
            if b.above
        ]
        return sentences + [
            f"{c.where}, {c.kind}: the test of {c.name} fails ({c.found}; p = {c.p_value:.1e}): "
            "the release is not what was planned; stop the run and look at the code that made it"
            for c in self.checks
            if c.p_value < self.least_p_value
        ]

    @property
    def passed(self) -> bool:
        """Whether the record refutes nothing. A run without noise error fails 1 time in 100."""
        return not self.faults


def audit_run(folder: Path, run: str | None = None) -> EmpiricalReport:
    """Audit the records of canaries under a run's folder.

    Args:
        folder: of the run, or of organisations that outlive runs.
        run: public name of the run; needed where the organisations keep records of several.

    Raises:
        RunError: if there are no records, they do not belong together, or the run had no noise.
    """
    return report_on(read_series(folder, run))


def report_on(series: Sequence[Series]) -> EmpiricalReport:
    """Audit the series of one run, one for each organisation and kind of release.

    Raises:
        RunError: if the run had no noise.
    """
    first = series[0].record
    if any(not s.deviation for s in series):
        raise RunError(
            f"run {first.run}: adds no noise and claims no epsilon; there is nothing to bound. "
            "Audit a run with privacy.noise = own or shared"
        )
    alone = [s.scores() for s in series]
    parts: dict[str, list[Scores]] = {}
    for s, scores in zip(series, alone, strict=True):
        parts.setdefault(s.where, []).append(scores)
    together = _together(series, alone, len(parts))
    shown = together or next(iter(parts.values()))
    if len(parts) > 1 and together:
        parts[ALL] = together
    refuted_at = 1.0 - FALSE_ALARM / len(parts)
    return EmpiricalReport(
        first.run,
        first.noise,
        first.delta,
        tuple(bound_epsilon(where, s, first.delta, refuted_at) for where, s in parts.items()),
        check_all(series),
        tuple(_histogram(s) for s in shown),
    )


def print_report(console: Console, report: EmpiricalReport) -> None:
    """Bounds beside claims, one line for each kind of release and test, and every fault."""
    console.print(
        f"Run {report.run}: lower bounds on epsilon at delta {report.delta:.1e}, confidence "
        f"{CONFIDENCE:.0%}, from canaries that rode on its releases",
        highlight=False,
    )
    if report.noise == "shared":
        console.print(
            "Noise is shared: an organisation's line says what holds where all others collude, "
            "the last one what holds where no more of them do than was planned.",
            highlight=False,
        )
    table = Table("Where")
    for name in ("At least", "Claim", "Of the claim"):
        table.add_column(name, justify="right")
    for bound in report.bounds:
        ratio = f"{bound.low / bound.claim:.0%}" if 0.0 < bound.claim < math.inf else "-"
        table.add_row(bound.where, f"{bound.low:.3f}", f"{bound.claim:.3f}", ratio)
    console.print(table)
    table = Table("Release", "Test", "Most striking", "At")
    for name in ("p", "Verdict"):
        table.add_column(name, justify="right")
    lines = dict.fromkeys((c.kind, c.name) for c in report.checks)
    for kind, name in sorted(lines, key=lambda line: KINDS.index(line[0])):
        worst = min(
            (c for c in report.checks if (c.kind, c.name) == (kind, name)),
            key=lambda c: c.p_value,
        )
        verdict = "[red]fails[/]" if worst.p_value < report.least_p_value else "passes"
        table.add_row(kind, name, worst.found, worst.where, f"{worst.p_value:.1e}", verdict)
    console.print(table)
    console.print(
        f"{len(report.checks)} tests, each against p = {report.least_p_value:.1e}; a sound run "
        "fails 1 time in 100 at most. The bounds take each release for a sampled Gaussian; 1 in "
        "20 lies above a true claim, and a claim is refuted at 99.5%.",
        highlight=False,
    )
    for fault in report.faults:
        console.print(f"[red]{fault}[/]", highlight=False)


def _together(
    series: Sequence[Series], alone: Sequence[Scores], organisations: int
) -> list[Scores]:
    """Scores of all organisations: against the sum where they share noise, else pooled.

    Empty where they took part in different releases: then there is no one claim to compare with.
    Of a sum, those that were lost in some round are left out if enough are left.
    """
    result = []
    for kind in dict.fromkeys(s.record.kind for s in series):
        of_kind = [s for s in series if s.record.kind == kind]
        if of_kind[0].record.noise == "shared":
            whole = steady(opened(of_kind))
            if len(whole) < min(enough(of_kind[0]), organisations):
                return []
            result.append(joint_scores(whole))
            continue
        scores = [one for one in alone if one.kind == kind]
        same = len(steady(of_kind)) == organisations
        if not same or len({one.event() for one in scores}) > 1:
            return []
        result.append(pooled(scores))
    return result


def _histogram(scores: Scores) -> Histogram:
    reach = SHOWN_DEVIATIONS * scores.deviation
    edges = np.linspace(-reach, 1.0 + reach, BINS + 1)
    entered, absent = (
        np.histogram(values, edges)[0] / (max(1, len(values)) * np.diff(edges))
        for values in (scores.entered, scores.absent)
    )
    return Histogram(scores.kind, scores.deviation, edges, entered, absent)

"""Live progress of a simulation on the terminal: stage, round, epsilon spent, time left."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from server.observers import Observer, RoundReport
from shared.accounting import COARSE_DISCRETISATION, epsilon_pld
from shared.plan import PrivacyPlan


class Screen:
    """Rich progress: one line per finished stage, a bar for the running one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.timings: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while the block runs."""
        with self._progress:
            yield

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator["Stage"]:
        """A bar for one stage; its time is kept and its line stays on the screen."""
        started = time.perf_counter()
        task = self._progress.add_task(name, total=total, note="")
        stage = Stage(self._progress, task)
        try:
            yield stage
        finally:
            self._progress.remove_task(task)
        seconds = time.perf_counter() - started
        self.timings[name] = self.timings.get(name, 0.0) + seconds
        self.console.print(f"  {name:<34}[dim]{seconds:6.1f} s  {stage.note}[/dim]")


class Stage:
    """The running stage's bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self.note = ""

    def at(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Move the bar."""
        if note is not None:
            self.note = note
        self._progress.update(self._task, completed=done, total=total, note=self.note)

    def counter(self, done: int, total: int) -> None:
        """Move the bar from a ``(done, total)`` callback."""
        self.at(done, total)


class EpsilonCurve:
    """Epsilon after each round by the plan, quickly enough to be shown live (errs upward)."""

    def __init__(self, plan: PrivacyPlan, steps_per_round: int) -> None:
        self._plan = plan
        self._steps = steps_per_round

    def after(self, rounds: int) -> float | None:
        """Epsilon spent after so many rounds; None without noise."""
        events = self._plan.events(rounds * self._steps)
        epsilon = epsilon_pld(events, self._plan.delta, COARSE_DISCRETISATION)
        return epsilon if math.isfinite(epsilon) else None


class ProgressObserver(Observer):
    """Moves a stage's bar through a federation's rounds."""

    def __init__(self, stage: Stage, steps_per_round: int) -> None:
        self._stage = stage
        self._steps = steps_per_round
        self._curve: EpsilonCurve | None = None

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        """Say that statistics come next."""
        self._curve = EpsilonCurve(plan, self._steps)
        self._stage.at(0, note="statistics")

    def statistics_ready(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Show what the statistics cost."""
        self._stage.at(0, note=self._note(0))

    def round_finished(self, report: RoundReport) -> None:
        """Show the round and what is spent."""
        self._stage.at(report.round, report.rounds, self._note(report.round))

    def _note(self, rounds: int) -> str:
        assert self._curve is not None
        epsilon = self._curve.after(rounds)
        return "no noise" if epsilon is None else f"epsilon {epsilon:.2f}"

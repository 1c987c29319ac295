"""What the canaries of one organisation saw, over all releases of a kind in one run."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audit.bounds import Scores
from shared.canaries import CanaryRecord
from shared.errors import RunError
from shared.grid import INFLATION

ALL = "all organisations"


@dataclass(frozen=True)
class Series:
    """Records of one kind at one organisation, step after step.

    Attributes:
        where: the organisation.
        record: the first record, for what all have in common.
        rounds: ``[steps]`` round of each step.
        attempts: ``[steps]`` at the round's sum.
        people: ``[steps]`` who could enter.
        residuals, signs, sampled, batch_sizes: as of ``CanaryRecord``, over all steps.
    """

    where: str
    record: CanaryRecord
    rounds: npt.NDArray[np.int64]
    attempts: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]
    residuals: npt.NDArray[np.float32]
    signs: npt.NDArray[np.int8]
    sampled: npt.NDArray[np.bool_]
    batch_sizes: npt.NDArray[np.int64]

    @property
    def deviation(self) -> float:
        """Planned deviation of this organisation's noise, over the sensitivity."""
        return self.record.noise_multiplier * self.record.noise_share

    @property
    def drawn(self) -> float:
        """Deviation that is drawn: on a grid a little more than planned."""
        return self.deviation * INFLATION.get(self.record.grid_bits, 1.0)

    @property
    def reserves(self) -> npt.NDArray[np.float32]:
        """Residuals of the reserves, ``[steps, reserves]``: noise alone."""
        return self.residuals[:, self.record.members :]

    def scores(self) -> Scores:
        """For the bound of this organisation's own noise."""
        score = self.residuals * self.signs
        return _scores(self, score, self.sampled, self.deviation)


def read_series(folder: Path, run: str | None = None) -> list[Series]:
    """All series under a run's folder, by organisation and kind.

    Args:
        folder: of the run, or of organisations that outlive runs; with
            ``[organisations/]NAME/audit/RUN/*.safetensors`` in it.
        run: public name of the run; needed where the organisations keep records of several.

    Raises:
        RunError: if there are none, or they do not belong together.
    """
    found: dict[tuple[str, str], list[CanaryRecord]] = {}
    within = folder / "organisations" if (folder / "organisations").is_dir() else folder
    for path in sorted(within.glob("*/audit/*/*.safetensors")):
        record = CanaryRecord.load(path)
        if run is None or record.run == run:
            found.setdefault((path.parents[2].name, record.kind), []).append(record)
    if not found:
        of_run = "" if run is None else f" of run {run}"
        raise RunError(
            f"{folder}: has no records of canaries{of_run}; set audit.canaries (5000, say) and run "
            "again"
        )
    runs = sorted({record.run for records in found.values() for record in records})
    if len(runs) > 1:
        raise RunError(
            f"{folder}: has records of several runs ({', '.join(runs)}); say which to look at"
        )
    series = [series_of(where, records) for (where, _), records in found.items()]
    for name in ("delta", "noise"):
        values = {str(getattr(s.record, name)) for s in series}
        if len(values) > 1:
            raise RunError(f"{folder}: records disagree on {name} ({', '.join(sorted(values))})")
    return series


def series_of(where: str, records: Sequence[CanaryRecord]) -> Series:
    """The series of one organisation's records of one kind.

    Raises:
        RunError: if they have different plans or canaries.
    """
    records = sorted(records, key=lambda record: (record.round, record.attempt))
    first = records[0]
    for record in records[1:]:
        if _planned(record) != _planned(first) or not np.array_equal(record.keys, first.keys):
            raise RunError(
                f"{where}: {first.kind} of rounds {first.round} and {record.round} have different "
                "plans or canaries; they do not belong to one run"
            )
    steps = [len(record.residuals) for record in records]
    return Series(
        where,
        first,
        np.repeat([record.round for record in records], steps),
        np.repeat([record.attempt for record in records], steps),
        np.repeat([record.people for record in records], steps),
        np.concatenate([record.residuals for record in records]),
        np.concatenate([record.signs for record in records]),
        np.concatenate([record.sampled for record in records]),
        np.concatenate([record.batch_sizes for record in records]),
    )


def opened(series: Sequence[Series]) -> list[Series]:
    """Of each round the last attempt alone: those before it were given up, their sums unopened."""
    last: dict[int, int] = {}
    for s in series:
        for number, attempt in zip(s.rounds.tolist(), s.attempts.tolist(), strict=True):
            last[number] = max(attempt, last.get(number, 0))
    return [_steps(s, s.attempts == np.array([last[n] for n in s.rounds.tolist()])) for s in series]


def steady(series: Sequence[Series]) -> list[Series]:
    """Those that took part in every step that any of them took part in."""
    most = max(series, key=lambda s: len(s.rounds))
    known = {number for s in series for number in s.rounds.tolist()}
    if known != set(most.rounds.tolist()):
        return []
    return [s for s in series if np.array_equal(s.rounds, most.rounds)]


def enough(series: Series) -> int:
    """How many organisations' noise is all the planned noise of their sum."""
    return math.ceil(series.record.noise_share**-2 - 1e-9)


def common_columns(series: Sequence[Series]) -> list[npt.NDArray[np.int64]]:
    """For each series the columns of the canaries that all of them have, in one order."""
    common = series[0].record.keys
    for other in series[1:]:
        common = np.intersect1d(common, other.record.keys)
    return [
        np.intersect1d(common, s.record.keys, return_indices=True)[2].astype(np.int64)
        for s in series
    ]


def joint_scores(series: Sequence[Series]) -> Scores:
    """Scores against the sum over organisations, for noise that they share.

    The adversary sees the sum alone and knows all canaries but one. All organisations have theirs
    on the same coordinates, under one noise: so that scores stay independent, each coordinate tests
    the canary of one organisation, in turn. Where a sum has more noise than was planned, because it
    may lose some organisations and some may collude, the adversary also knows the noise of all but
    as many as the plan counts on: the one tested and those after it.

    Args:
        series: of one kind and with the same steps, one of each organisation.
    """
    columns = common_columns(series)
    first = series[0]
    is_member = columns[0] < first.record.members
    order = np.argsort(~is_member, kind="stable")
    honest = min(enough(first), len(series))
    target = np.arange(len(order)) % len(series)
    noise = np.zeros((len(first.rounds), len(order)))
    own, sign = np.zeros_like(noise), np.ones_like(noise)
    entered = np.zeros(noise.shape, dtype=bool)
    for number, (s, unordered) in enumerate(zip(series, columns, strict=True)):
        column = unordered[order]
        members = np.flatnonzero(column < s.record.members)
        push = np.zeros(noise.shape)
        push[:, members] = s.sampled[:, column[members]] * s.signs[:, column[members]]
        unknown = (number - target) % len(series) < honest
        noise[:, unknown] += (s.residuals[:, column] - push)[:, unknown]
        mine = target == number
        own[:, mine], sign[:, mine] = push[:, mine], s.signs[:, column[mine]]
        entered[:, mine] = push[:, mine] != 0.0
    sampled = entered[:, : int(is_member.sum())]
    return _scores(first, (noise + own) * sign, sampled, first.record.noise_multiplier)


def pooled(scores: Iterable[Scores]) -> Scores:
    """Scores of several organisations with the same plan, as of one."""
    every = list(scores)
    one = every[0]
    return Scores(
        one.kind,
        np.concatenate([s.entered for s in every]),
        np.concatenate([s.absent for s in every]),
        one.deviation,
        one.sampling_rate,
        one.releases,
        (sum(s.draws[0] for s in every), sum(s.draws[1] for s in every)),
    )


def _planned(record: CanaryRecord) -> tuple[object, ...]:
    return (
        record.sampling_rate,
        record.noise_multiplier,
        record.sensitivity,
        record.noise_share,
        record.grid_bits,
        record.noise,
        record.least_participants,
        record.delta,
        record.members,
    )


def _steps(series: Series, kept: npt.NDArray[np.bool_]) -> Series:
    return replace(
        series,
        rounds=series.rounds[kept],
        attempts=series.attempts[kept],
        people=series.people[kept],
        residuals=series.residuals[kept],
        signs=series.signs[kept],
        sampled=series.sampled[kept],
        batch_sizes=series.batch_sizes[kept],
    )


def _scores(
    series: Series,
    score: npt.NDArray[np.floating],
    sampled: npt.NDArray[np.bool_],
    deviation: float,
) -> Scores:
    steps, members = sampled.shape
    rate, kind = series.record.sampling_rate, series.record.kind
    draws = (int(sampled.sum()), sampled.size)
    if rate == 1.0:
        mean = score.mean(axis=0, dtype=np.float64)
        entered, absent = mean[:members], mean[members:]
        return Scores(kind, entered, absent, deviation / steps**0.5, rate, 1, draws)
    entered, absent = score[:, :members][sampled], score[:, members:].ravel()
    return Scores(
        kind, entered.astype(np.float64), absent.astype(np.float64), deviation, rate, steps, draws
    )

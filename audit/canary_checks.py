"""Tests of what canaries saw: noise, clipping, sampling, reused noise, an organisation short.

Each gives the probability of a record as strange as this one if all is well. Together they are
wrong with a probability of ``FALSE_ALARM`` at most (Bonferroni).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from audit.canary_series import ALL, Series, common_columns, opened, steady

# Half of the 1% that the audit may be wrong; the other half is for bounds above the claim.
FALSE_ALARM = 0.005
BLOCK = 512


@dataclass(frozen=True)
class Check:
    """One test of the record.

    Attributes:
        name: of the test.
        kind: of release.
        where: the organisation, or all of them.
        found: in words, with what was expected.
        p_value: probability of this or stranger if all is well.
    """

    name: str
    kind: str
    where: str
    found: str
    p_value: float


def check_all(series: Sequence[Series]) -> tuple[Check, ...]:
    """All tests that the record of a run allows."""
    found = [check for one in series for check in _own_checks(one)]
    for kind in dict.fromkeys(s.record.kind for s in series):
        of_kind = [s for s in series if s.record.kind == kind]
        if len(of_kind) > 1:
            found += _joint_checks(of_kind)
        found += _whole_noise(of_kind)
    return tuple(found)


def _own_checks(series: Series) -> Iterator[Check]:
    kind, where = series.record.kind, series.where
    yield Check("noise level", kind, where, *_level(series.reserves, series.drawn))
    shape = stats.kstest(series.reserves.ravel() / series.drawn, "norm")
    yield Check("noise shape", kind, where, f"{shape.statistic:.1e} from normal", shape.pvalue)
    members = series.record.members
    score = (series.residuals * series.signs)[:, :members]
    yield Check("clipping", kind, where, *_mean(score[series.sampled], 1.0, series.deviation))
    rate = series.record.sampling_rate
    if rate == 1.0:
        missing = int((~series.sampled).sum() + (series.people - series.batch_sizes).sum())
        told = f"{missing} people left out of a sum over all"
        yield Check("sampling: all", kind, where, told, float(missing == 0))
    else:
        absent = score[~series.sampled]
        yield Check("sampling: absent", kind, where, *_mean(absent, 0.0, series.deviation))
        yield from _sampling(series, rate)
    if len(series.rounds) > 1:
        reused = _correlation([(series.reserves, series.reserves)], same=True)
        yield Check("reuse: steps", kind, where, *reused)


def _sampling(series: Series, rate: float) -> Iterator[Check]:
    kind, where = series.record.kind, series.where
    entered, tried = int(series.sampled.sum()), series.sampled.size
    p_value = stats.binomtest(entered, tried, rate).pvalue
    told = f"rate {entered / tried:.4f} for {rate:.4f}"
    yield Check("sampling: rate", kind, where, told, float(p_value))
    yield Check("sampling: batches", kind, where, *_spread(series.batch_sizes, series.people, rate))
    if len(series.rounds) > 1:
        counts = series.sampled.sum(axis=0)
        steps = np.full(len(counts), len(series.rounds))
        yield Check("sampling: members", kind, where, *_spread(counts, steps, rate))


def _joint_checks(series: Sequence[Series]) -> Iterator[Check]:
    kind = series[0].record.kind
    pairs = []
    for one, other in combinations(series, 2):
        reserves = _common_reserves([one, other])
        if reserves[0].shape[1] > 1:
            pairs.append((reserves[0], reserves[1]))
    if pairs:
        yield Check("reuse: organisations", kind, ALL, *_correlation(pairs, same=False))


def _whole_noise(series: Sequence[Series]) -> Iterator[Check]:
    """Whether the noise of all organisations together is at least what was planned for the sum."""
    record = series[0].record
    name, kind = "one house short", record.kind
    summed = opened(series)
    if record.noise == "shared" and (short := _short_step(summed)):
        yield Check(name, kind, ALL, short, 0.0)
        return
    together = steady(summed)
    if len(together) < 2 or (record.noise != "shared" and len(together) < len(series)):
        return
    total = np.sum(_common_reserves(together), axis=0)
    if total.size:
        deviation = sum(s.drawn**2 for s in together) ** 0.5
        yield Check(name, kind, ALL, *_level(total, deviation))


def _short_step(series: Sequence[Series]) -> str:
    """A step with too few organisations or shares of noise, in words; empty if there is none."""
    parties: dict[tuple[int, int], list[Series]] = {}
    for one in series:
        seen: Counter[int] = Counter()
        for number in one.rounds.tolist():
            parties.setdefault((number, seen[number]), []).append(one)
            seen[number] += 1
    for (number, _), there in sorted(parties.items(), key=lambda party: party[0]):
        shares = sum(s.record.noise_share**2 for s in there)
        least = there[0].record.least_participants
        told = f"{len(there)} organisations with {shares:.3f} of the variance in round {number}"
        if shares < 1.0 - 1e-9:
            return told
        if len(there) < least:
            return f"{told}, fewer than the {least} that were planned"
    return ""


def _common_reserves(series: Sequence[Series]) -> list[npt.NDArray[np.float32]]:
    columns = common_columns(series)
    kept = np.all([c >= s.record.members for s, c in zip(series, columns, strict=True)], axis=0)
    return [s.residuals[:, c[kept]] for s, c in zip(series, columns, strict=True)]


def _level(noise: npt.NDArray[np.floating], deviation: float) -> tuple[str, float]:
    """Two-sided chi-square test of a Gaussian's deviation."""
    square = float((noise.astype(np.float64) ** 2).sum())
    scaled = square / deviation**2
    told = f"{(square / noise.size) ** 0.5 / deviation:.4f} of the deviation"
    return told, _two_sided(stats.chi2(noise.size), scaled)


def _mean(score: npt.NDArray[np.floating], expected: float, deviation: float) -> tuple[str, float]:
    if not score.size:
        return "none", 1.0
    mean = float(score.mean(dtype=np.float64))
    z = (mean - expected) / deviation * score.size**0.5
    return f"pushed {mean:.4f} for {expected:g}", float(2.0 * stats.norm.sf(abs(z)))


def _spread(
    counts: npt.NDArray[np.int64], trials: npt.NDArray[np.int64], rate: float
) -> tuple[str, float]:
    """Two-sided test of the variance of binomial counts.

    The sum of squares is taken as a gamma variable of its exact mean and variance; the fourth
    moment of a binomial is that of its definition.
    """
    variance = trials * rate * (1.0 - rate)
    scaled = (counts - trials * rate) ** 2 / variance
    excess = (1.0 - 6.0 * rate * (1.0 - rate)) / variance
    mean, spread = float(len(counts)), float((2.0 + excess).sum())
    gamma = stats.gamma(mean**2 / spread, scale=spread / mean)
    told = f"{scaled.mean():.3f} of the variance of independent draws"
    return told, _two_sided(gamma, float(scaled.sum()))


def _two_sided(distribution: object, value: float) -> float:
    below, above = distribution.cdf(value), distribution.sf(value)  # type: ignore[attr-defined]
    return float(min(1.0, 2.0 * min(below, above)))


def _correlation(
    pairs: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], same: bool
) -> tuple[str, float]:
    """The most striking correlation of any row of one with any row of the other.

    The square of an uncentred correlation of two Gaussian vectors of length n is beta distributed,
    ``Beta(1 / 2, (n - 1) / 2)``.

    Args:
        pairs: ``[steps, coordinates]`` each.
        same: whether both are one; then each pair of different rows counts once.
    """
    count, least, greatest = 0, 1.0, 0.0
    for one, other in pairs:
        rows = len(one) * (len(one) - 1) // 2 if same else len(one) * len(other)
        correlation = _greatest(_unit(one), _unit(other), same)
        tail = stats.beta.sf(correlation**2, 0.5, (one.shape[1] - 1) / 2)
        count, least = count + rows, min(least, float(tail))
        greatest = max(greatest, correlation)
    return f"correlation {greatest:.3f} at most, of {count} pairs", min(1.0, count * least)


def _greatest(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], same: bool) -> float:
    greatest = 0.0
    for start in range(0, len(one), BLOCK):
        product = np.abs(one[start : start + BLOCK] @ other.T)
        if same:
            product[np.arange(len(product)), start + np.arange(len(product))] = 0.0
        greatest = max(greatest, float(product.max()))
    return min(1.0, greatest)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.zeros_like(rows)
    np.divide(rows, norms, out=unit, where=norms > 0.0)
    return unit

"""The empirical audit on small synthetic records: its bounds, its false alarms, its words.

Records come from the real clipping, noise and sampling on a vector of 600 values, without a model.
"""

import dataclasses
import io
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats
from torch import nn

from audit.bounds import Scores, bound_epsilon, least, least_mu, lower_limit
from audit.canary_checks import FALSE_ALARM, check_all
from audit.canary_series import Series, series_of
from audit.empirical import EmpiricalReport, audit_run, print_report, report_on
from audit.empirical_plot import plot
from client.canaries import Canaries
from client.trainer import BELOW_NORM, PrivateOptimizer
from shared.canaries import CanaryRecord
from shared.errors import RunError
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.randomness import from_seed

USERS, CANARIES, STEPS = 100, 400, 6
RATE = 0.2
STEP = Mechanism("step", RATE, 1.0, 0.5)


def made(
    seed: int,
    *,
    mechanism: Mechanism = STEP,
    noise: Noise = Noise.OWN,
    round_number: int = 1,
    name: str = "run",
) -> CanaryRecord:
    """A record of seeded steps over users whose gradients are zero."""
    parameter, random = nn.Parameter(torch.zeros(600)), from_seed(seed)
    canaries = Canaries.on_adapter(CANARIES, name, round_number, [parameter])
    assert canaries is not None
    sgd = torch.optim.SGD([parameter], lr=1.0)
    optimizer = PrivateOptimizer(sgd, mechanism, "automatic", USERS, random)
    canaries.begin(mechanism.sensitivity, BELOW_NORM, mechanism.sampling_rate * USERS, 1)
    for _ in range(STEPS):
        entered = mechanism.sample(USERS + canaries.members, random)
        for _ in canaries.gradient_rows(optimizer.params, entered, USERS):
            optimizer.clip_and_accumulate()
        optimizer.finish_step(canaries)
    plan = PrivacyPlan(None, None, mechanism, None, STEPS, 1e-5, 8.0, noise)
    return canaries.record(mechanism, plan)


def organisation(name: str, seed: int) -> Series:
    return series_of(name, [made(seed)])


@cache
def sound(count: int) -> tuple[tuple[Series, Series], ...]:
    """Sound records of two organisations each."""
    return tuple((organisation("a", 2 * n), organisation("b", 2 * n + 1)) for n in range(count))


def test_sound_records_raise_an_alarm_once_in_a_hundred_times_at_most() -> None:
    """Each record has 18 tests, each of which may be wrong 0.005 / 18 times."""
    alarms = 0
    for series in sound(200):
        checks = check_all(series)
        assert len(checks) == 18
        alarms += any(check.p_value < FALSE_ALARM / len(checks) for check in checks)
    assert alarms <= 2


def test_each_test_is_as_often_wrong_as_it_says() -> None:
    """At p = 0.05; the limit on counts is wrong itself once in 100,000 times."""
    wrong: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for series in sound(200):
        for check in check_all(series):
            tried[check.name] += 1
            wrong[check.name] += check.p_value < 0.05
    assert len(tried) == 10
    for name, count in wrong.items():
        assert count <= stats.binom.ppf(1 - 1e-5, tried[name], 0.05), name
    for name in ("noise level", "noise shape", "clipping", "sampling: rate", "sampling: members"):
        assert wrong[name] >= stats.binom.ppf(1e-5, tried[name], 0.05), name


def test_bounds_of_sound_records_hold_as_often_as_they_say() -> None:
    """Bounds on mu and on the rate hold jointly 95 times in 100; 1 in 100,000 for the count."""
    missed = 0
    for series in sound(200):
        for one in series:
            (part,) = least([one.scores()], 0.95)
            missed += part.mu > part.planned_mu or part.sampling_rate > RATE
    assert 0 < missed <= stats.binom.ppf(1 - 1e-5, 400, 0.05)


def test_a_lower_limit_is_clopper_and_pearsons() -> None:
    """Golden: Clopper and Pearson (1934) by the binomial tail, 8 of 10 at 2.5%."""
    limit = lower_limit(8, 10, 0.025)
    assert limit == pytest.approx(0.4439, abs=1e-4)
    assert stats.binom.sf(7, 10, limit) == pytest.approx(0.025)
    assert lower_limit(0, 10, 0.025) == 0.0
    assert lower_limit(10, 10, 0.025) == pytest.approx(0.025 ** (1 / 10))


def test_mu_is_bounded_from_the_share_of_right_answers() -> None:
    entered, absent = np.repeat([1.0, 0.0], [80, 20]), np.repeat([0.0, 1.0], [90, 10])
    share = lower_limit(170, 200, 0.05)
    assert least_mu(entered, absent, 0.05) == pytest.approx(2 * stats.norm.ppf(share))
    assert least_mu(absent, entered, 0.05) == 0.0
    assert least_mu(entered[:0], absent, 0.05) == 0.0


def test_the_bound_approaches_the_claim_with_many_canaries() -> None:
    """One Gaussian release of mu 1 at delta 1e-5: epsilon 4.377 (Balle and Wang 2018)."""
    random, bounds = np.random.default_rng(0), []
    for count in (10**3, 10**5, 10**6):
        entered, absent = random.normal(1.0, 1.0, count), random.normal(0.0, 1.0, count)
        one = Scores("popularity", entered, absent, 1.0, 1.0, 1, (count, count))
        bounds.append(bound_epsilon("one", [one], 1e-5, 0.999))
    assert [bound.claim for bound in bounds] == pytest.approx(3 * [4.3772], abs=1e-3)
    ratios = [bound.low / bound.claim for bound in bounds]
    assert ratios == sorted(ratios)
    assert ratios[0] > 0.8
    assert 0.99 < ratios[-1] < 1.0


def test_noise_that_is_half_of_what_was_planned_puts_the_bound_above_the_claim() -> None:
    random = np.random.default_rng(0)
    entered, absent = random.normal(1.0, 0.5, 2000), random.normal(0.0, 0.5, 2000)
    one = Scores("popularity", entered, absent, 1.0, 1.0, 1, (2000, 2000))
    bound = bound_epsilon("one", [one], 1e-5, 0.999)
    assert bound.above
    assert bound.low > 1.5 * bound.claim


def test_a_bound_that_passes_the_claim_by_chance_is_no_refutation() -> None:
    """Right answers for mu 1 are 69.1%; here some 1.8 deviations more."""
    entered, absent = np.repeat([1.0, 0.0], [712, 288]), np.repeat([0.0, 1.0], [712, 288])
    one = Scores("popularity", entered, absent, 1.0, 1.0, 1, (1000, 1000))
    bound = bound_epsilon("one", [one], 1e-5, 0.9995)
    assert bound.low > bound.claim
    assert not bound.above


def test_scores_of_sums_over_all_are_means_over_the_steps() -> None:
    everyone = dataclasses.replace(STEP, sampling_rate=1.0)
    series = series_of("one", [made(1, mechanism=everyone)])
    scores = series.scores()
    assert scores.releases == 1
    assert scores.deviation == pytest.approx(STEPS**-0.5)
    assert scores.entered.shape == (series.record.members,)
    assert scores.entered.mean() == pytest.approx(1.0, abs=0.15)


def write(folder: Path, records: dict[str, Sequence[CanaryRecord]]) -> Path:
    for name, of_one in records.items():
        for record in of_one:
            record.save(folder / "organisations" / name / "audit" / "run")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two organisations and two rounds."""
    records = {
        name: [made(10 * place + number, round_number=number) for number in (1, 2)]
        for place, name in enumerate(("north", "south"))
    }
    return write(tmp_path, records)


def test_a_run_is_audited_from_its_folder(folder: Path) -> None:
    report = audit_run(folder)
    assert report.passed
    assert [bound.where for bound in report.bounds] == ["north", "south", "all organisations"]
    assert report.bounds[2].low > max(bound.low for bound in report.bounds[:2])
    assert report.bounds[2].claim == report.bounds[0].claim
    assert {check.name for check in report.checks if check.where == "all organisations"} == {
        "reuse: organisations",
        "one house short",
    }


def test_organisations_in_different_rounds_have_no_bound_in_common(folder: Path) -> None:
    (folder / "organisations/north/audit/run/step-00002.safetensors").unlink()
    report = audit_run(folder)
    assert [bound.where for bound in report.bounds] == ["north", "south"]


def test_a_run_without_records_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no records of canaries; set audit\.canaries"):
        audit_run(tmp_path)


def test_records_of_several_runs_are_told_apart_by_name(folder: Path) -> None:
    write(folder, {"north": [made(5, round_number=7, name="another")]})
    with pytest.raises(RunError, match=r"records of several runs \(another, run\)"):
        audit_run(folder)
    assert audit_run(folder, "another").bounds[0].where == "north"
    assert len(audit_run(folder, "run").bounds) == 3


def test_records_with_different_plans_are_refused(folder: Path) -> None:
    louder = dataclasses.replace(STEP, noise_multiplier=2.0)
    write(folder, {"north": [made(5, mechanism=louder, round_number=3)]})
    with pytest.raises(RunError, match="rounds 1 and 3 have different plans"):
        audit_run(folder)


def test_a_run_without_noise_is_refused(tmp_path: Path) -> None:
    silent = dataclasses.replace(STEP, noise_multiplier=0.0)
    with pytest.raises(RunError, match="claims no epsilon"):
        audit_run(write(tmp_path, {"north": [made(0, mechanism=silent)]}))


def _printed(report: EmpiricalReport) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_report(console, report)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return " ".join(text.split())


def test_the_report_shows_bounds_and_a_line_for_each_test(folder: Path) -> None:
    text = _printed(audit_run(folder))
    for part in ("north", "south", "all organisations", "At least", "Claim", "noise level"):
        assert part in text
    assert text.count("passes") == 10
    assert "fails 1 time in 100 at most" in text


def test_the_report_says_what_fails_and_where(folder: Path) -> None:
    weak = [made(n, mechanism=dataclasses.replace(STEP, noise_multiplier=0.4)) for n in (8, 9)]
    sold = [
        dataclasses.replace(record, noise_multiplier=1.0, round=number)
        for number, record in enumerate(weak, start=1)
    ]
    write(folder, {"north": sold})
    report = audit_run(folder)
    assert not report.passed
    text = _printed(report)
    assert "north: epsilon is at least" in text
    assert "north, step: the test of noise level fails (0.4" in text
    assert "south: epsilon" not in text


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_picture_is_written(folder: Path, ending: str) -> None:
    path = plot(audit_run(folder), folder / f"audit.{ending}")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert len(content) > 5000


def test_a_picture_can_hold_a_bound_that_is_infinite(folder: Path) -> None:
    report = audit_run(folder)
    high = dataclasses.replace(report.bounds[0], low=math.inf)
    both = dataclasses.replace(high, claim=math.inf)
    for bounds in ((high,), (both,), (report.bounds[0], high, both)):
        path = plot(dataclasses.replace(report, bounds=bounds), folder / "audit.svg")
        assert path.stat().st_size > 5000
        assert "inf" in _printed(dataclasses.replace(report, bounds=bounds))


def test_histograms_are_densities_of_the_scores() -> None:
    report = report_on(list(sound(1)[0]))
    (found,) = report.histograms
    width = np.diff(found.edges)
    assert (found.entered * width).sum() == pytest.approx(1.0, abs=1e-3)
    centres = (found.edges[:-1] + found.edges[1:]) / 2
    assert (found.entered * width * centres).sum() == pytest.approx(1.0, abs=0.1)
    assert (found.absent * width * centres).sum() == pytest.approx(0.0, abs=0.1)


def test_the_audit_loads_neither_torch_nor_what_trains() -> None:
    code = (
        "import sys; import audit.empirical, audit.empirical_plot; "
        "print(sorted({'torch', 'transformers', 'client', 'server'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
